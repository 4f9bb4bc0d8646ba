CREATE FUNCTION public.findings_text(statement text, key text, models jsonb, author text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
SELECT to_tsvector('english'::regconfig, regexp_replace(
statement || ' ' || key || ' ' || models::text || ' ' || author, '[^[:alnum:]]+', ' ', 'g'))
$$;
CREATE FUNCTION public.measurements_delete() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN
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
RETURN NULL; END $$;
CREATE FUNCTION public.measurements_update() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN
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
RETURN NULL; END $$;
CREATE TABLE public.agent_calls (
    id bigint NOT NULL,
    campaign_id bigint NOT NULL,
    role character varying(64) NOT NULL,
    prompt_hash character varying(64) NOT NULL,
    model character varying(200) NOT NULL,
    tokens_in integer NOT NULL,
    tokens_out integer NOT NULL,
    usd bigint NOT NULL,
    seconds double precision NOT NULL,
    outcome character varying(64) NOT NULL,
    message text NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.agent_calls_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.agent_calls_id_seq OWNED BY public.agent_calls.id;
CREATE TABLE public.arrays (
    trial_id bigint NOT NULL,
    name character varying(64) NOT NULL,
    series jsonb NOT NULL
);
CREATE TABLE public.budgets (
    campaign_id bigint NOT NULL,
    kind character varying(16) NOT NULL,
    role character varying(64) NOT NULL,
    cap bigint,
    reserved bigint NOT NULL,
    spent bigint NOT NULL,
    CONSTRAINT ck_budgets_reserved CHECK ((reserved >= 0)),
    CONSTRAINT ck_budgets_spent CHECK ((spent >= 0))
);
CREATE TABLE public.campaigns (
    id bigint NOT NULL,
    name character varying(200) NOT NULL,
    settings jsonb NOT NULL,
    seed bigint NOT NULL,
    budget jsonb NOT NULL,
    state character varying(16) NOT NULL,
    next_number integer NOT NULL,
    turn_owner character varying(200),
    turn_token bigint NOT NULL,
    turn_at double precision,
    turn_expires double precision,
    created_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone
);
CREATE SEQUENCE public.campaigns_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.campaigns_id_seq OWNED BY public.campaigns.id;
CREATE TABLE public.environments (
    id bigint NOT NULL,
    digest character varying(64) NOT NULL,
    data jsonb NOT NULL
);
CREATE SEQUENCE public.environments_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.environments_id_seq OWNED BY public.environments.id;
CREATE TABLE public.events (
    id bigint NOT NULL,
    campaign_id bigint,
    trial_id bigint,
    kind character varying(64) NOT NULL,
    message text NOT NULL,
    data jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.events_id_seq OWNED BY public.events.id;
CREATE TABLE public.evidence (
    finding_id bigint NOT NULL,
    trial_id bigint NOT NULL,
    since integer NOT NULL,
    until integer
);
CREATE TABLE public.findings (
    id bigint NOT NULL,
    campaign_id bigint NOT NULL,
    key character varying(200) NOT NULL,
    revision integer NOT NULL,
    kind character varying(32) NOT NULL,
    status character varying(16) NOT NULL,
    statement text NOT NULL,
    models jsonb NOT NULL,
    effect_name character varying(200),
    effect_value double precision,
    effect_low double precision,
    effect_high double precision,
    effect_unit character varying(32),
    author character varying(64) NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.findings_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.findings_id_seq OWNED BY public.findings.id;
CREATE TABLE public.front (
    trial_id bigint NOT NULL,
    campaign_id bigint NOT NULL,
    model character varying(200) NOT NULL,
    protocol character varying(64) NOT NULL,
    rung integer NOT NULL,
    context integer NOT NULL,
    bits_per_value double precision NOT NULL,
    kld double precision NOT NULL
);
CREATE TABLE public.kv_swarm_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.measurements (
    trial_id bigint NOT NULL,
    metric character varying(64) NOT NULL,
    value double precision NOT NULL,
    unit character varying(32) NOT NULL,
    n integer NOT NULL,
    stderr double precision
);
CREATE TABLE public.models (
    name character varying(200) NOT NULL,
    family character varying(64) NOT NULL,
    digest character varying(128) NOT NULL,
    n_layers integer NOT NULL,
    info jsonb NOT NULL,
    updated_at timestamp with time zone NOT NULL
);
CREATE TABLE public.predictions (
    trial_id bigint NOT NULL,
    metric character varying(64) NOT NULL,
    comparator character varying(2) NOT NULL,
    threshold double precision NOT NULL,
    reference_id bigint,
    verdict character varying(16) NOT NULL,
    observed double precision,
    low double precision,
    high double precision,
    scored_by character varying(64),
    scored_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL
);
CREATE TABLE public.proposal_parents (
    proposal_id bigint NOT NULL,
    finding_id bigint NOT NULL,
    revision integer NOT NULL
);
CREATE TABLE public.proposals (
    id bigint NOT NULL,
    campaign_id bigint NOT NULL,
    trial_id bigint,
    number integer NOT NULL,
    proposer character varying(64) NOT NULL,
    arm character varying(16) NOT NULL,
    rationale text NOT NULL,
    refused text NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.proposals_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.proposals_id_seq OWNED BY public.proposals.id;
CREATE TABLE public.reservations (
    id bigint NOT NULL,
    campaign_id bigint NOT NULL,
    kind character varying(16) NOT NULL,
    role character varying(64) NOT NULL,
    amount bigint NOT NULL,
    spent bigint NOT NULL,
    state character varying(16) NOT NULL,
    trial_id bigint,
    expires double precision,
    created_at timestamp with time zone NOT NULL,
    closed_at timestamp with time zone
);
CREATE SEQUENCE public.reservations_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.reservations_id_seq OWNED BY public.reservations.id;
CREATE TABLE public.reviews (
    id bigint NOT NULL,
    summary_id bigint NOT NULL,
    state character varying(16) NOT NULL,
    reviewer character varying(200) NOT NULL,
    note text NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.reviews_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.reviews_id_seq OWNED BY public.reviews.id;
CREATE TABLE public.summaries (
    id bigint NOT NULL,
    campaign_id bigint NOT NULL,
    title character varying(200) NOT NULL,
    text text NOT NULL,
    author character varying(64) NOT NULL,
    state character varying(16) NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.summaries_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.summaries_id_seq OWNED BY public.summaries.id;
CREATE TABLE public.summary_evidence (
    summary_id bigint NOT NULL,
    trial_id bigint NOT NULL
);
CREATE TABLE public.trials (
    id bigint NOT NULL,
    campaign_id bigint NOT NULL,
    number integer NOT NULL,
    fingerprint character varying(64) NOT NULL,
    spec jsonb NOT NULL,
    state character varying(16) NOT NULL,
    outcome character varying(32) NOT NULL,
    message text NOT NULL,
    notes text NOT NULL,
    proposer character varying(64) NOT NULL,
    arm character varying(16) NOT NULL,
    model character varying(200) NOT NULL,
    protocol character varying(64) NOT NULL,
    rung integer NOT NULL,
    context integer NOT NULL,
    replicate integer NOT NULL,
    logit_gain double precision NOT NULL,
    device character varying(16) NOT NULL,
    key_method character varying(64) NOT NULL,
    key_bits integer,
    key_label character varying(200) NOT NULL,
    value_method character varying(64) NOT NULL,
    value_bits integer,
    value_label character varying(200) NOT NULL,
    configuration character varying(200) NOT NULL,
    configuration_id character varying(32) NOT NULL,
    first_layer integer,
    last_layer integer,
    n_quantized integer,
    kld double precision,
    bits_per_value double precision,
    environment_id bigint,
    seconds double precision NOT NULL,
    timings jsonb,
    attempts integer NOT NULL,
    crashes integer NOT NULL,
    lease_owner character varying(200),
    lease_token bigint NOT NULL,
    lease_at double precision,
    lease_expires double precision,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone
);
CREATE SEQUENCE public.trials_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trials_id_seq OWNED BY public.trials.id;
ALTER TABLE ONLY public.agent_calls ALTER COLUMN id SET DEFAULT nextval('public.agent_calls_id_seq'::regclass);
ALTER TABLE ONLY public.campaigns ALTER COLUMN id SET DEFAULT nextval('public.campaigns_id_seq'::regclass);
ALTER TABLE ONLY public.environments ALTER COLUMN id SET DEFAULT nextval('public.environments_id_seq'::regclass);
ALTER TABLE ONLY public.events ALTER COLUMN id SET DEFAULT nextval('public.events_id_seq'::regclass);
ALTER TABLE ONLY public.findings ALTER COLUMN id SET DEFAULT nextval('public.findings_id_seq'::regclass);
ALTER TABLE ONLY public.proposals ALTER COLUMN id SET DEFAULT nextval('public.proposals_id_seq'::regclass);
ALTER TABLE ONLY public.reservations ALTER COLUMN id SET DEFAULT nextval('public.reservations_id_seq'::regclass);
ALTER TABLE ONLY public.reviews ALTER COLUMN id SET DEFAULT nextval('public.reviews_id_seq'::regclass);
ALTER TABLE ONLY public.summaries ALTER COLUMN id SET DEFAULT nextval('public.summaries_id_seq'::regclass);
ALTER TABLE ONLY public.trials ALTER COLUMN id SET DEFAULT nextval('public.trials_id_seq'::regclass);
ALTER TABLE ONLY public.kv_swarm_version
    ADD CONSTRAINT kv_swarm_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.agent_calls
    ADD CONSTRAINT pk_agent_calls PRIMARY KEY (id);
ALTER TABLE ONLY public.arrays
    ADD CONSTRAINT pk_arrays PRIMARY KEY (trial_id, name);
ALTER TABLE ONLY public.budgets
    ADD CONSTRAINT pk_budgets PRIMARY KEY (campaign_id, kind, role);
ALTER TABLE ONLY public.campaigns
    ADD CONSTRAINT pk_campaigns PRIMARY KEY (id);
ALTER TABLE ONLY public.environments
    ADD CONSTRAINT pk_environments PRIMARY KEY (id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT pk_events PRIMARY KEY (id);
ALTER TABLE ONLY public.evidence
    ADD CONSTRAINT pk_evidence PRIMARY KEY (finding_id, trial_id, since);
ALTER TABLE ONLY public.findings
    ADD CONSTRAINT pk_findings PRIMARY KEY (id);
ALTER TABLE ONLY public.front
    ADD CONSTRAINT pk_front PRIMARY KEY (trial_id);
ALTER TABLE ONLY public.measurements
    ADD CONSTRAINT pk_measurements PRIMARY KEY (trial_id, metric);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT pk_models PRIMARY KEY (name);
ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT pk_predictions PRIMARY KEY (trial_id);
ALTER TABLE ONLY public.proposal_parents
    ADD CONSTRAINT pk_proposal_parents PRIMARY KEY (proposal_id, finding_id);
ALTER TABLE ONLY public.proposals
    ADD CONSTRAINT pk_proposals PRIMARY KEY (id);
ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT pk_reservations PRIMARY KEY (id);
ALTER TABLE ONLY public.reviews
    ADD CONSTRAINT pk_reviews PRIMARY KEY (id);
ALTER TABLE ONLY public.summaries
    ADD CONSTRAINT pk_summaries PRIMARY KEY (id);
ALTER TABLE ONLY public.summary_evidence
    ADD CONSTRAINT pk_summary_evidence PRIMARY KEY (summary_id, trial_id);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT pk_trials PRIMARY KEY (id);
ALTER TABLE ONLY public.campaigns
    ADD CONSTRAINT uq_campaigns_name UNIQUE (name);
ALTER TABLE ONLY public.environments
    ADD CONSTRAINT uq_environments_digest UNIQUE (digest);
ALTER TABLE ONLY public.findings
    ADD CONSTRAINT uq_findings_campaign_id_key UNIQUE (campaign_id, key);
ALTER TABLE ONLY public.proposals
    ADD CONSTRAINT uq_proposals_trial_id UNIQUE (trial_id);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT uq_trials_campaign_id_fingerprint UNIQUE (campaign_id, fingerprint);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT uq_trials_campaign_id_number UNIQUE (campaign_id, number);
CREATE INDEX findings_fts ON public.findings USING gin (public.findings_text(statement, (key)::text, models, (author)::text));
CREATE INDEX ix_agent_calls_campaign_id ON public.agent_calls USING btree (campaign_id, id);
CREATE INDEX ix_events_campaign_id ON public.events USING btree (campaign_id, id);
CREATE INDEX ix_events_trial_id ON public.events USING btree (trial_id);
CREATE INDEX ix_evidence_trial_id ON public.evidence USING btree (trial_id);
CREATE INDEX ix_front_group ON public.front USING btree (campaign_id, model, protocol, rung, context, bits_per_value, kld);
CREATE INDEX ix_predictions_verdict ON public.predictions USING btree (verdict);
CREATE INDEX ix_proposal_parents_finding_id ON public.proposal_parents USING btree (finding_id);
CREATE INDEX ix_proposals_campaign_id_number ON public.proposals USING btree (campaign_id, number);
CREATE INDEX ix_reservations_campaign_id_state ON public.reservations USING btree (campaign_id, state);
CREATE INDEX ix_reservations_trial_id ON public.reservations USING btree (trial_id);
CREATE INDEX ix_reviews_summary_id ON public.reviews USING btree (summary_id);
CREATE INDEX ix_summaries_state ON public.summaries USING btree (state);
CREATE INDEX ix_trials_campaign_id_kld ON public.trials USING btree (campaign_id, kld);
CREATE INDEX ix_trials_campaign_id_state_number ON public.trials USING btree (campaign_id, state, number);
CREATE INDEX ix_trials_configuration_id ON public.trials USING btree (configuration_id, model);
CREATE INDEX ix_trials_fingerprint ON public.trials USING btree (fingerprint);
CREATE INDEX ix_trials_ranking ON public.trials USING btree (campaign_id, model, kld);
CREATE TRIGGER measurements_delete AFTER DELETE ON public.measurements FOR EACH ROW WHEN (((old.metric)::text = ANY ((ARRAY['kld'::character varying, 'bits_per_value'::character varying])::text[]))) EXECUTE FUNCTION public.measurements_delete();
CREATE TRIGGER measurements_update AFTER UPDATE ON public.measurements FOR EACH ROW WHEN (((new.metric)::text = ANY ((ARRAY['kld'::character varying, 'bits_per_value'::character varying])::text[]))) EXECUTE FUNCTION public.measurements_update();
ALTER TABLE ONLY public.agent_calls
    ADD CONSTRAINT fk_agent_calls_campaign_id FOREIGN KEY (campaign_id) REFERENCES public.campaigns(id);
ALTER TABLE ONLY public.arrays
    ADD CONSTRAINT fk_arrays_trial_id FOREIGN KEY (trial_id) REFERENCES public.trials(id);
ALTER TABLE ONLY public.budgets
    ADD CONSTRAINT fk_budgets_campaign_id FOREIGN KEY (campaign_id) REFERENCES public.campaigns(id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT fk_events_campaign_id FOREIGN KEY (campaign_id) REFERENCES public.campaigns(id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT fk_events_trial_id FOREIGN KEY (trial_id) REFERENCES public.trials(id);
ALTER TABLE ONLY public.evidence
    ADD CONSTRAINT fk_evidence_finding_id FOREIGN KEY (finding_id) REFERENCES public.findings(id);
ALTER TABLE ONLY public.evidence
    ADD CONSTRAINT fk_evidence_trial_id FOREIGN KEY (trial_id) REFERENCES public.trials(id);
ALTER TABLE ONLY public.findings
    ADD CONSTRAINT fk_findings_campaign_id FOREIGN KEY (campaign_id) REFERENCES public.campaigns(id);
ALTER TABLE ONLY public.front
    ADD CONSTRAINT fk_front_campaign_id FOREIGN KEY (campaign_id) REFERENCES public.campaigns(id);
ALTER TABLE ONLY public.front
    ADD CONSTRAINT fk_front_trial_id FOREIGN KEY (trial_id) REFERENCES public.trials(id);
ALTER TABLE ONLY public.measurements
    ADD CONSTRAINT fk_measurements_trial_id FOREIGN KEY (trial_id) REFERENCES public.trials(id);
ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT fk_predictions_reference_id FOREIGN KEY (reference_id) REFERENCES public.trials(id);
ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT fk_predictions_trial_id FOREIGN KEY (trial_id) REFERENCES public.trials(id);
ALTER TABLE ONLY public.proposal_parents
    ADD CONSTRAINT fk_proposal_parents_finding_id FOREIGN KEY (finding_id) REFERENCES public.findings(id);
ALTER TABLE ONLY public.proposal_parents
    ADD CONSTRAINT fk_proposal_parents_proposal_id FOREIGN KEY (proposal_id) REFERENCES public.proposals(id);
ALTER TABLE ONLY public.proposals
    ADD CONSTRAINT fk_proposals_campaign_id FOREIGN KEY (campaign_id) REFERENCES public.campaigns(id);
ALTER TABLE ONLY public.proposals
    ADD CONSTRAINT fk_proposals_trial_id FOREIGN KEY (trial_id) REFERENCES public.trials(id);
ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT fk_reservations_campaign_id FOREIGN KEY (campaign_id) REFERENCES public.campaigns(id);
ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT fk_reservations_trial_id FOREIGN KEY (trial_id) REFERENCES public.trials(id);
ALTER TABLE ONLY public.reviews
    ADD CONSTRAINT fk_reviews_summary_id FOREIGN KEY (summary_id) REFERENCES public.summaries(id);
ALTER TABLE ONLY public.summaries
    ADD CONSTRAINT fk_summaries_campaign_id FOREIGN KEY (campaign_id) REFERENCES public.campaigns(id);
ALTER TABLE ONLY public.summary_evidence
    ADD CONSTRAINT fk_summary_evidence_summary_id FOREIGN KEY (summary_id) REFERENCES public.summaries(id);
ALTER TABLE ONLY public.summary_evidence
    ADD CONSTRAINT fk_summary_evidence_trial_id FOREIGN KEY (trial_id) REFERENCES public.trials(id);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT fk_trials_campaign_id FOREIGN KEY (campaign_id) REFERENCES public.campaigns(id);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT fk_trials_environment_id FOREIGN KEY (environment_id) REFERENCES public.environments(id);
INSERT INTO kv_swarm_version VALUES ('0001');
