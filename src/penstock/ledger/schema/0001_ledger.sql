-- The ledger's tables, made so that they defend themselves: an unbalanced journal, an overdraft, a
-- hold taken twice, a changed or deleted line and a reused id are refused here too, whatever the
-- program above does. Amounts are nano-USD in bigint (9.2 thousand million USD).
CREATE SCHEMA ledger;

-- One row. Every write takes its lock first, so batches are applied one after another.
CREATE TABLE ledger.state (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL DEFAULT 0,
    log_size bigint NOT NULL DEFAULT 0 CHECK (log_size >= 0),
    log_roots bytea[] NOT NULL DEFAULT '{}',
    open_epoch bigint NOT NULL DEFAULT -1
);
INSERT INTO ledger.state DEFAULT VALUES;

-- The books ------------------------------------------------------------------------------------
CREATE TABLE ledger.account (
    name text COLLATE "C" PRIMARY KEY,
    posted_nano bigint NOT NULL DEFAULT 0,
    held_nano bigint NOT NULL DEFAULT 0 CHECK (held_nano >= 0),
    CONSTRAINT no_overdraft CHECK (name = 'mint' OR posted_nano - held_nano >= 0)
);

CREATE TABLE ledger.hold (
    id text COLLATE "C" PRIMARY KEY,
    account text COLLATE "C" NOT NULL REFERENCES ledger.account (name),
    amount_nano bigint NOT NULL CHECK (amount_nano > 0),
    captured_nano bigint NOT NULL DEFAULT 0 CHECK (captured_nano >= 0),
    is_open boolean NOT NULL DEFAULT true,
    CONSTRAINT hold_not_exceeded CHECK (captured_nano <= amount_nano)
);

-- One row per operation; `content` is the digest by which a reused id is told from a repeated one.
CREATE TABLE ledger.journal (
    id text COLLATE "C" PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('post', 'hold', 'extend', 'capture', 'release')),
    hold text COLLATE "C",
    amount_nano bigint NOT NULL DEFAULT 0,
    content bytea NOT NULL CHECK (length(content) = 32),
    epoch bigint NOT NULL
);

CREATE TABLE ledger.leg (
    journal text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano <> 0),
    PRIMARY KEY (journal, account)
);
CREATE INDEX leg_by_account ON ledger.leg (account);

-- The log --------------------------------------------------------------------------------------
CREATE TABLE ledger.log_entry (
    seq bigint PRIMARY KEY CHECK (seq >= 0),
    epoch bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    entry_id text COLLATE "C" NOT NULL,
    leaf bytea NOT NULL,
    row_json bytea,
    UNIQUE (kind, entry_id)
);

-- Roots of complete subtrees: level 0 are the leaf hashes.
CREATE TABLE ledger.log_node (
    level smallint NOT NULL,
    index bigint NOT NULL,
    hash bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, index)
);

-- The station's own memory ----------------------------------------------------------------------
CREATE TABLE ledger.api_key (
    key_hash text PRIMARY KEY CHECK (key_hash ~ '^[0-9a-f]{64}$'),
    account text NOT NULL
);

CREATE TABLE ledger.lease (
    lease_id text COLLATE "C" PRIMARY KEY,
    gateway text NOT NULL,
    account text NOT NULL,
    granted_nano bigint NOT NULL,
    grants integer NOT NULL,
    opened_ms bigint NOT NULL,
    expires_ms bigint NOT NULL,
    is_open boolean NOT NULL
);
CREATE INDEX lease_open ON ledger.lease (expires_ms) WHERE is_open;

CREATE TABLE ledger.claim (
    order_id text COLLATE "C" PRIMARY KEY,
    first_ms bigint NOT NULL
);

CREATE TABLE ledger.epoch (
    epoch bigint PRIMARY KEY,
    first_seq bigint NOT NULL,
    previous bigint NOT NULL CHECK (previous < epoch),
    close_seq bigint NOT NULL DEFAULT -1,
    closed_ms bigint NOT NULL DEFAULT -1,
    published_ms bigint NOT NULL DEFAULT -1,
    settled_seq bigint NOT NULL DEFAULT -1,
    is_done boolean NOT NULL DEFAULT false,
    pool_nano bigint NOT NULL DEFAULT 0 CHECK (pool_nano >= 0)
);
CREATE INDEX epoch_unfinished ON ledger.epoch (epoch) WHERE NOT is_done;

-- What is written stays -------------------------------------------------------------------------
CREATE FUNCTION ledger.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.journal
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.leg
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.log_entry
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.log_node
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- A statement's legs must balance journal by journal. Checking each statement as a whole is both
-- stricter than waiting for the commit and much cheaper than a trigger per row.
CREATE FUNCTION ledger.refuse_unbalanced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM fresh LEFT JOIN ledger.journal j ON j.id = fresh.journal
        GROUP BY fresh.journal
        HAVING sum(fresh.amount_nano) <> 0 OR bool_or(j.id IS NULL)
    ) THEN
        RAISE EXCEPTION 'unbalanced legs, or legs without a journal'
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER balanced AFTER INSERT ON ledger.leg REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_unbalanced();

-- Balances change by statements that add up to zero too, and accounts begin empty.
CREATE FUNCTION ledger.refuse_made_money() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT sum(posted_nano) FROM after) <> (SELECT sum(posted_nano) FROM before) THEN
        RAISE EXCEPTION 'the balances do not add up to zero' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER no_made_money AFTER UPDATE ON ledger.account
    REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_made_money();

CREATE FUNCTION ledger.refuse_first_money() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.posted_nano <> 0 OR NEW.held_nano <> 0 THEN
        RAISE EXCEPTION 'accounts begin empty and stay' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER begins_empty BEFORE INSERT OR DELETE ON ledger.account
    FOR EACH ROW EXECUTE FUNCTION ledger.refuse_first_money();

CREATE FUNCTION ledger.refuse_shrinking() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.log_size < OLD.log_size OR NEW.version <> OLD.version + 1
        OR NEW.open_epoch < OLD.open_epoch THEN
        RAISE EXCEPTION 'the log only grows' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER only_grows BEFORE UPDATE ON ledger.state
    FOR EACH ROW EXECUTE FUNCTION ledger.refuse_shrinking();

CREATE FUNCTION ledger.refuse_reopen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT OLD.is_open OR NEW.captured_nano < OLD.captured_nano
        OR NEW.amount_nano < OLD.amount_nano OR NEW.account <> OLD.account THEN
        RAISE EXCEPTION 'a released hold stays released, and no hold shrinks'
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER released_once BEFORE UPDATE ON ledger.hold
    FOR EACH ROW EXECUTE FUNCTION ledger.refuse_reopen();

-- What the cached balances should be, from the journal alone: always empty.
CREATE VIEW ledger.drift AS
    SELECT a.name, a.posted_nano, a.held_nano
    FROM ledger.account a
    LEFT JOIN (SELECT account, sum(amount_nano) AS nano FROM ledger.leg GROUP BY account) l
        ON l.account = a.name
    LEFT JOIN (
        SELECT account, sum(amount_nano - captured_nano) AS nano
        FROM ledger.hold WHERE is_open GROUP BY account
    ) h ON h.account = a.name
    WHERE a.posted_nano <> coalesce(l.nano, 0) OR a.held_nano <> coalesce(h.nano, 0);
