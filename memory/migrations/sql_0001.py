"""Full text over findings and the triggers of the first schema, in each database's own SQL. Never changes."""

STATEMENTS = {
    "sqlite": (
        r"""CREATE VIRTUAL TABLE findings_fts USING fts5(
statement, key, models, author, content='findings', content_rowid='id', tokenize='porter unicode61')""",
        r"""CREATE TRIGGER findings_fts_insert AFTER INSERT ON findings BEGIN
INSERT INTO findings_fts(rowid, statement, key, models, author)
VALUES (new.id, new.statement, new.key, new.models, new.author);
END""",
        r"""CREATE TRIGGER findings_fts_delete AFTER DELETE ON findings BEGIN
INSERT INTO findings_fts(findings_fts, rowid, statement, key, models, author)
VALUES ('delete', old.id, old.statement, old.key, old.models, old.author);
END""",
        r"""CREATE TRIGGER findings_fts_update AFTER UPDATE ON findings BEGIN
INSERT INTO findings_fts(findings_fts, rowid, statement, key, models, author)
VALUES ('delete', old.id, old.statement, old.key, old.models, old.author);
INSERT INTO findings_fts(rowid, statement, key, models, author)
VALUES (new.id, new.statement, new.key, new.models, new.author);
END""",
        r"""CREATE TRIGGER measurements_update AFTER UPDATE ON measurements
WHEN new.metric IN ('kld', 'bits_per_value') BEGIN
UPDATE trials SET kld = CASE new.metric WHEN 'kld' THEN new.value ELSE kld END,
bits_per_value = CASE new.metric WHEN 'bits_per_value' THEN new.value ELSE bits_per_value END
WHERE id = new.trial_id;
DELETE FROM front WHERE trial_id IN (SELECT a.trial_id FROM front a WHERE EXISTS (SELECT 1 FROM trials b
    WHERE b.id = new.trial_id AND a.campaign_id = b.campaign_id AND a.model = b.model AND a.protocol =
    b.protocol AND a.rung = b.rung AND a.context = b.context));
INSERT INTO front (trial_id, campaign_id, model, protocol, rung, context, bits_per_value, kld)
SELECT id, campaign_id, model, protocol, rung, context, bits_per_value, kld FROM (
SELECT t.id, t.campaign_id, t.model, t.protocol, t.rung, t.context, t.bits_per_value, t.kld, MIN(t.kld) OVER (
PARTITION BY t.campaign_id, t.model, t.protocol, t.rung, t.context ORDER BY t.bits_per_value, t.kld, t.id
ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS best_before
FROM trials t WHERE t.state = 'complete' AND t.kld IS NOT NULL AND t.bits_per_value IS NOT NULL
AND t.logit_gain = 1.0 AND EXISTS (SELECT 1 FROM trials b WHERE b.id = new.trial_id AND t.campaign_id =
    b.campaign_id AND t.model = b.model AND t.protocol = b.protocol AND t.rung = b.rung AND t.context =
    b.context)
) ranked WHERE best_before IS NULL OR kld < best_before;
END""",
        r"""CREATE TRIGGER measurements_delete AFTER DELETE ON measurements
WHEN old.metric IN ('kld', 'bits_per_value') BEGIN
UPDATE trials SET kld = CASE old.metric WHEN 'kld' THEN NULL ELSE kld END,
bits_per_value = CASE old.metric WHEN 'bits_per_value' THEN NULL ELSE bits_per_value END
WHERE id = old.trial_id;
DELETE FROM front WHERE trial_id IN (SELECT a.trial_id FROM front a WHERE EXISTS (SELECT 1 FROM trials b
    WHERE b.id = old.trial_id AND a.campaign_id = b.campaign_id AND a.model = b.model AND a.protocol =
    b.protocol AND a.rung = b.rung AND a.context = b.context));
INSERT INTO front (trial_id, campaign_id, model, protocol, rung, context, bits_per_value, kld)
SELECT id, campaign_id, model, protocol, rung, context, bits_per_value, kld FROM (
SELECT t.id, t.campaign_id, t.model, t.protocol, t.rung, t.context, t.bits_per_value, t.kld, MIN(t.kld) OVER (
PARTITION BY t.campaign_id, t.model, t.protocol, t.rung, t.context ORDER BY t.bits_per_value, t.kld, t.id
ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS best_before
FROM trials t WHERE t.state = 'complete' AND t.kld IS NOT NULL AND t.bits_per_value IS NOT NULL
AND t.logit_gain = 1.0 AND EXISTS (SELECT 1 FROM trials b WHERE b.id = old.trial_id AND t.campaign_id =
    b.campaign_id AND t.model = b.model AND t.protocol = b.protocol AND t.rung = b.rung AND t.context =
    b.context)
) ranked WHERE best_before IS NULL OR kld < best_before;
END""",
    ),
    "postgresql": (
        r"""CREATE FUNCTION findings_text(statement text, key text, models jsonb, author text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT to_tsvector('english'::regconfig, regexp_replace(
statement || ' ' || key || ' ' || models::text || ' ' || author, '[^[:alnum:]]+', ' ', 'g'))
$$""",
        r"""CREATE INDEX findings_fts ON findings USING gin (findings_text(statement, key, models, author))""",
        r"""CREATE FUNCTION measurements_update() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
UPDATE trials SET kld = CASE new.metric WHEN 'kld' THEN new.value ELSE kld END,
bits_per_value = CASE new.metric WHEN 'bits_per_value' THEN new.value ELSE bits_per_value END
WHERE id = new.trial_id;
DELETE FROM front WHERE trial_id IN (SELECT a.trial_id FROM front a WHERE EXISTS (SELECT 1 FROM trials b
    WHERE b.id = new.trial_id AND a.campaign_id = b.campaign_id AND a.model = b.model AND a.protocol =
    b.protocol AND a.rung = b.rung AND a.context = b.context));
INSERT INTO front (trial_id, campaign_id, model, protocol, rung, context, bits_per_value, kld)
SELECT id, campaign_id, model, protocol, rung, context, bits_per_value, kld FROM (
SELECT t.id, t.campaign_id, t.model, t.protocol, t.rung, t.context, t.bits_per_value, t.kld, MIN(t.kld) OVER (
PARTITION BY t.campaign_id, t.model, t.protocol, t.rung, t.context ORDER BY t.bits_per_value, t.kld, t.id
ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS best_before
FROM trials t WHERE t.state = 'complete' AND t.kld IS NOT NULL AND t.bits_per_value IS NOT NULL
AND t.logit_gain = 1.0 AND EXISTS (SELECT 1 FROM trials b WHERE b.id = new.trial_id AND t.campaign_id =
    b.campaign_id AND t.model = b.model AND t.protocol = b.protocol AND t.rung = b.rung AND t.context =
    b.context)
) ranked WHERE best_before IS NULL OR kld < best_before;
RETURN NULL; END $$""",
        r"""CREATE TRIGGER measurements_update AFTER UPDATE ON measurements FOR EACH ROW
WHEN (new.metric IN ('kld', 'bits_per_value')) EXECUTE FUNCTION measurements_update()""",
        r"""CREATE FUNCTION measurements_delete() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
UPDATE trials SET kld = CASE old.metric WHEN 'kld' THEN NULL ELSE kld END,
bits_per_value = CASE old.metric WHEN 'bits_per_value' THEN NULL ELSE bits_per_value END
WHERE id = old.trial_id;
DELETE FROM front WHERE trial_id IN (SELECT a.trial_id FROM front a WHERE EXISTS (SELECT 1 FROM trials b
    WHERE b.id = old.trial_id AND a.campaign_id = b.campaign_id AND a.model = b.model AND a.protocol =
    b.protocol AND a.rung = b.rung AND a.context = b.context));
INSERT INTO front (trial_id, campaign_id, model, protocol, rung, context, bits_per_value, kld)
SELECT id, campaign_id, model, protocol, rung, context, bits_per_value, kld FROM (
SELECT t.id, t.campaign_id, t.model, t.protocol, t.rung, t.context, t.bits_per_value, t.kld, MIN(t.kld) OVER (
PARTITION BY t.campaign_id, t.model, t.protocol, t.rung, t.context ORDER BY t.bits_per_value, t.kld, t.id
ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS best_before
FROM trials t WHERE t.state = 'complete' AND t.kld IS NOT NULL AND t.bits_per_value IS NOT NULL
AND t.logit_gain = 1.0 AND EXISTS (SELECT 1 FROM trials b WHERE b.id = old.trial_id AND t.campaign_id =
    b.campaign_id AND t.model = b.model AND t.protocol = b.protocol AND t.rung = b.rung AND t.context =
    b.context)
) ranked WHERE best_before IS NULL OR kld < best_before;
RETURN NULL; END $$""",
        r"""CREATE TRIGGER measurements_delete AFTER DELETE ON measurements FOR EACH ROW
WHEN (old.metric IN ('kld', 'bits_per_value')) EXECUTE FUNCTION measurements_delete()""",
    ),
}
