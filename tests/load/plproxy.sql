-- SPDX-License-Identifier: PostgreSQL
-- The PL/Proxy database: cluster commcarehq with four shards, two in p1 and two in p2, all reached
-- through the proxy.  psql variables: host, port (of the proxy), password (of the application).
CREATE EXTENSION plproxy;
SELECT format('CREATE SERVER commcarehq FOREIGN DATA WRAPPER plproxy OPTIONS (connection_lifetime ''1800'', %s)',
              string_agg(format('p%s %L', lpad(i::text, 4, '0'),
                                format('dbname=commcarehq_p%s host=%s port=%s', i / 2 + 1, :'host', :'port')), ', '))
FROM generate_series(0, 3) AS i \gexec
CREATE USER MAPPING FOR commcarehq SERVER commcarehq OPTIONS (user 'commcarehq', password :'password');
CREATE USER MAPPING FOR postgres SERVER commcarehq OPTIONS (user 'commcarehq', password :'password');
GRANT USAGE ON FOREIGN SERVER commcarehq TO commcarehq;
CREATE FUNCTION load_save_form(shard integer, run bigint, client integer, number bigint)
RETURNS text LANGUAGE plproxy AS $$ CLUSTER 'commcarehq'; RUN ON shard; $$;
CREATE FUNCTION load_count_form(shard integer, run bigint, client integer, number bigint)
RETURNS bigint LANGUAGE plproxy AS $$ CLUSTER 'commcarehq'; RUN ON shard; $$;
