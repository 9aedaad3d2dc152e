// SPDX-License-Identifier: PostgreSQL
// Ordinary work with node-postgres.  Prints what it sees: the same lines directly and through the proxy.
//   node work.js HOST PORT DATABASE TABLE
'use strict';
const {Client, Pool} = require('pg');
const Cursor = require('pg-cursor');

const [host, port, database, table] = process.argv.slice(2);
const where = {host, port: Number(port), database, user: 'app'};
const say = (...things) => console.log(things.map((thing) => JSON.stringify(thing)).join(' '));

async function refused(promise) {
  try {
    await promise;
    say('no error');
  } catch (error) {
    say('error', error.code);
  }
}

async function types(client) {
  for (let i = 0; i < 5; i++) {
    const {rows} = await client.query({
      name: i < 3 ? 'types' : undefined,
      text: 'SELECT $1::int8 a, $2::numeric b, $3::text c, $4::bytea d, $5::timestamptz e, $6::int[] f,' +
        ' $7::jsonb g, $8::bool h, $9::float8 i, $10::date j',
      values: ['9007199254740993', '1234567890.0001', 'gr\u00fc\u00df \u{1f600} ' + i,
        Buffer.from([0, 1, 255, i]), new Date(Date.UTC(2026, 0, 31)), [1, null, i], {i},
        i % 2 === 0, 1 / 3, null],
    });
    say('types', rows);
  }
}

async function transactions(client) {
  await client.query('BEGIN');
  for (let i = 0; i < 50; i++) {
    await client.query({name: 'insert', text: `INSERT INTO ${table} VALUES ($1, $2)`, values: [i, 'row']});
  }
  await client.query('SAVEPOINT here');
  await refused(client.query(`INSERT INTO ${table} VALUES (1, 'twice')`));
  await refused(client.query('SELECT 1'));
  await client.query('ROLLBACK TO here');
  await client.query('COMMIT');
  await client.query('BEGIN');
  await client.query(`DELETE FROM ${table}`);
  await client.query('ROLLBACK');
  await client.query('BEGIN');
  const cursor = client.query(new Cursor(`SELECT id FROM ${table} ORDER BY id`));
  let rows = [];
  for (let more = true; more;) {
    const part = await cursor.read(7);
    more = part.length > 0;
    rows = rows.concat(part.map((row) => row.id));
  }
  await cursor.close();
  await client.query('COMMIT');
  say('rows', rows.length, rows.every((id, i) => id === i));
}

async function errors(client) {
  for (let i = 5; i >= 0; i--) {
    const query = client.query({name: 'divide', text: 'SELECT 1 / $1::int AS a', values: [i % 5]});
    await query.then(({rows}) => say('divided', rows), (error) => say('error', error.code));
  }
  const other = new Client(where);
  await other.connect();
  const {rows: [{pid}]} = await other.query('SELECT pg_backend_pid() AS pid');
  say('pid', pid > 0);
  await refused(other.query('BEGIN; SET LOCAL statement_timeout TO 300; SELECT pg_sleep(30)'));
  await other.query('ROLLBACK');
  await other.end();
  say('several', (await client.query('SELECT 1 AS a; SELECT 2 AS b')).map((result) => result.rows));
  say('empty', (await client.query('')).rows);
  // All sent before anything is read.
  const sums = await Promise.all([...Array(20).keys()].map((i) =>
    client.query('SELECT $1::int + 1 AS sum', [i])));
  say('queued', sums.map((result) => result.rows[0].sum));
}

async function workers() {
  const pool = new Pool({...where, max: 8, application_name: 'pool'});
  const results = await Promise.all([...Array(200).keys()].map((i) => pool.query({
    name: 'worker' + i % 3,
    text: `SELECT count(*)::int + $1::int AS n, ${i % 3} AS m, current_setting('application_name') AS name
           FROM ${table}`,
    values: [i],
  })));
  say('pool', results.every(({rows: [row]}, i) =>
    row.n === 50 + i && row.m === i % 3 && row.name === 'pool'));
  await pool.end();
}

async function main() {
  const client = new Client(where);
  await client.connect();
  await client.query(`CREATE TABLE ${table} (id int PRIMARY KEY, note text)`);
  try {
    await types(client);
    await transactions(client);
    await errors(client);
    await workers();
    const large = 'x'.repeat(3000000);
    say('large', (await client.query('SELECT $1::text AS a', [large])).rows[0].a === large);
  } finally {
    await client.query(`DROP TABLE ${table}`);
  }
  await client.end();
  say('done');
}

main().catch((error) => {
  console.log(error);
  process.exit(1);
});
