"""The market station: what there is to serve, who offers it, and how much of it is wanted.

It keeps the catalogue of chutes and the board of offers, counts who is present, and once an epoch
says what miners should host, at which reference price, and who claimed a bounty.
"""
