-- Rows that others rest on stay: a trigger for each row does not see a TRUNCATE, and a hold that is
-- deleted would leave its money held for ever.
CREATE FUNCTION ledger.refuse_loss() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never taken away', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER stays BEFORE TRUNCATE ON ledger.account
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_loss();
CREATE TRIGGER stays BEFORE DELETE OR TRUNCATE ON ledger.hold
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_loss();
CREATE TRIGGER stays BEFORE DELETE OR TRUNCATE ON ledger.state
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_loss();
CREATE TRIGGER stays BEFORE DELETE OR TRUNCATE ON ledger.lease
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_loss();
CREATE TRIGGER stays BEFORE DELETE OR TRUNCATE ON ledger.epoch
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_loss();
