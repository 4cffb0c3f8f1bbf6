-- What the market must know after a restart. Offers are not here: miners renew them every beat.
CREATE SCHEMA market;

-- A name belongs to whoever used it first.
CREATE TABLE market.name (
    name text COLLATE "C" PRIMARY KEY,
    owner text COLLATE "C" NOT NULL
);

-- The catalogue, in the order of publishing: the newest manifest of a name is what it means.
CREATE TABLE market.chute (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chute text COLLATE "C" NOT NULL UNIQUE,
    name text COLLATE "C" NOT NULL REFERENCES market.name (name),
    manifest text NOT NULL
);

-- The market's words about an epoch, kept until the ledger's log has them.
CREATE TABLE market.epoch (
    epoch bigint PRIMARY KEY,
    words text NOT NULL,
    is_published boolean NOT NULL DEFAULT false
);
CREATE INDEX epoch_unpublished ON market.epoch (epoch) WHERE NOT is_published;

-- Bounties that nobody has claimed yet, as of the newest epoch.
CREATE TABLE market.bounty (
    chute text COLLATE "C" PRIMARY KEY,
    points bigint NOT NULL CHECK (points > 0)
);
