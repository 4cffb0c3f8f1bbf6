"""The outside world, one file a thing. Only a station's app.py and the command line import from here."""
