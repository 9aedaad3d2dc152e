-- SPDX-License-Identifier: PostgreSQL
-- A shard shaped like CommCare's: forms, cases, their transactions and indices, ledgers, blobs, with
-- seed rows, and the functions that PL/Proxy calls on it.  psql variable: seed, the number of cases.
CREATE TABLE form_processor_xforminstancesql (
    id serial PRIMARY KEY,
    form_id varchar(255) NOT NULL UNIQUE,
    domain varchar(255) NOT NULL,
    app_id varchar(255),
    xmlns varchar(255) NOT NULL,
    user_id varchar(255),
    received_on timestamptz NOT NULL DEFAULT clock_timestamp(),
    server_modified_on timestamptz NOT NULL DEFAULT clock_timestamp(),
    auth_context jsonb NOT NULL DEFAULT '{}',
    state smallint NOT NULL DEFAULT 1
);
CREATE INDEX ON form_processor_xforminstancesql (domain, state);
CREATE TABLE form_processor_xformoperationsql (
    id serial PRIMARY KEY,
    form_id varchar(255) NOT NULL REFERENCES form_processor_xforminstancesql (form_id),
    user_id varchar(255),
    operation varchar(255) NOT NULL,
    date timestamptz NOT NULL
);
CREATE TABLE form_processor_commcarecasesql (
    id serial PRIMARY KEY,
    case_id varchar(255) NOT NULL UNIQUE,
    domain varchar(255) NOT NULL,
    type varchar(255) NOT NULL,
    name varchar(255),
    owner_id varchar(255) NOT NULL,
    opened_on timestamptz NOT NULL DEFAULT clock_timestamp(),
    modified_on timestamptz NOT NULL DEFAULT clock_timestamp(),
    server_modified_on timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed boolean NOT NULL DEFAULT false,
    deleted boolean NOT NULL DEFAULT false,
    case_json jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX ON form_processor_commcarecasesql (domain, owner_id, closed);
CREATE TABLE form_processor_commcarecaseindexsql (
    id serial PRIMARY KEY,
    case_id varchar(255) NOT NULL REFERENCES form_processor_commcarecasesql (case_id),
    domain varchar(255) NOT NULL,
    identifier varchar(255) NOT NULL,
    referenced_id varchar(255) NOT NULL,
    referenced_type varchar(255) NOT NULL,
    relationship_id smallint NOT NULL
);
-- No unique index on purpose: a form that was saved twice must be there twice to be counted.
CREATE TABLE form_processor_casetransaction (
    id serial PRIMARY KEY,
    case_id varchar(255) NOT NULL REFERENCES form_processor_commcarecasesql (case_id),
    form_id varchar(255),
    server_date timestamptz NOT NULL DEFAULT clock_timestamp(),
    type smallint NOT NULL DEFAULT 1,
    revoked boolean NOT NULL DEFAULT false
);
CREATE INDEX ON form_processor_casetransaction (case_id, server_date);
CREATE INDEX ON form_processor_casetransaction (form_id);
CREATE TABLE form_processor_ledgervalue (
    id serial PRIMARY KEY,
    domain varchar(255) NOT NULL,
    case_id varchar(255) NOT NULL REFERENCES form_processor_commcarecasesql (case_id),
    section_id varchar(100) NOT NULL,
    entry_id varchar(100) NOT NULL,
    balance integer NOT NULL,
    last_modified timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (case_id, section_id, entry_id)
);
CREATE TABLE blobs_blobmeta (
    id serial PRIMARY KEY,
    domain varchar(255) NOT NULL,
    parent_id varchar(255) NOT NULL,
    key varchar(255) NOT NULL UNIQUE,
    type_code smallint NOT NULL,
    content_length integer NOT NULL,
    created_on timestamptz NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO form_processor_commcarecasesql (case_id, domain, type, name, owner_id, case_json)
SELECT 'case-' || i, 'demo-' || i % 7, 'patient', 'Patient ' || i, 'owner-' || i % 50,
       jsonb_build_object('village', i % 100, 'visits', i % 12)
FROM generate_series(0, :seed - 1) AS i;
INSERT INTO form_processor_xforminstancesql (form_id, domain, app_id, xmlns, user_id)
SELECT 'seed-' || i, 'demo-' || i % 7, 'app', 'http://openrosa.org/formdesigner/visit', 'user-' || i % 50
FROM generate_series(0, 2 * :seed - 1) AS i;
INSERT INTO form_processor_casetransaction (case_id, form_id)
SELECT 'case-' || i % :seed, 'seed-' || i FROM generate_series(0, 2 * :seed - 1) AS i;
INSERT INTO form_processor_commcarecaseindexsql (case_id, domain, identifier, referenced_id, referenced_type, relationship_id)
SELECT 'case-' || i, 'demo-' || i % 7, 'parent', 'case-' || i / 2, 'household', 1
FROM generate_series(0, :seed - 1) AS i;
INSERT INTO form_processor_ledgervalue (domain, case_id, section_id, entry_id, balance)
SELECT 'demo-' || i % 7, 'case-' || i, 'stock', 'tablets', i % 40 FROM generate_series(0, :seed - 1) AS i;
INSERT INTO blobs_blobmeta (domain, parent_id, key, type_code, content_length)
SELECT 'demo-' || i % 7, 'seed-' || i, 'form.xml-' || i, 2, 1000 + i % 5000 FROM generate_series(0, :seed - 1) AS i;
-- Without this ANALYZE warns of every catalog that the shard's owner may not analyze.
SET client_min_messages = error;
ANALYZE;
RESET client_min_messages;

-- One form of the load: the form and its case transaction, together or not at all.
CREATE FUNCTION load_save_form(shard integer, run bigint, client integer, number bigint)
RETURNS text LANGUAGE sql AS $$
    WITH form AS (
        INSERT INTO form_processor_xforminstancesql (form_id, domain, xmlns, user_id)
        VALUES (concat_ws('-', 'load', run, client, number), 'demo-' || client % 7, 'load', 'user-' || client)
        RETURNING form_id)
    INSERT INTO form_processor_casetransaction (case_id, form_id)
    SELECT 'case-' || number % 100, form_id FROM form
    RETURNING form_id::text
$$;
CREATE FUNCTION load_count_form(shard integer, run bigint, client integer, number bigint)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM form_processor_xforminstancesql
    WHERE form_id = concat_ws('-', 'load', run, client, number)
$$;
