// SPDX-License-Identifier: PostgreSQL
// node-postgres: named statements, transactions, its pool, notifications.
// Arguments and output as those of psycopg_session.py.
'use strict';
const assert = require('assert');
const readline = require('readline');
const { Client, Pool } = require('pg');

const [host, port, database, user, mode] = process.argv.slice(2);
const options = { host, port: Number(port), database, user, ssl: false };
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function moved() {
  console.log('MOVE');
  await lines.next();
}

async function ordinary(client) {
  await client.query('BEGIN');
  await client.query('DELETE FROM driver_items');
  for (let n = 0; n < 20; n++) {
    await client.query({ name: 'insert', text: 'INSERT INTO driver_items VALUES ($1, $2)',
      values: [n, 'item ' + n] });
  }
  await client.query('COMMIT');
  await assert.rejects(client.query('SELECT 1/$1::int', [0]), { code: '22012' });
  const found = await client.query({ name: 'select',
    text: 'SELECT id, note FROM driver_items WHERE id < $1 ORDER BY id', values: [3] });
  assert.deepStrictEqual(found.rows.map((row) => row.note), ['item 0', 'item 1', 'item 2']);
  // All at once: node-postgres queues them.
  const sums = await Promise.all([1, 2, 3].map((n) => client.query('SELECT $1::int + 1 AS n', [n])));
  assert.deepStrictEqual(sums.map((sum) => sum.rows[0].n), [2, 3, 4]);
  const pool = new Pool({ ...options, max: 3 });
  const values = await Promise.all([...Array(9).keys()].map((n) =>
    pool.query({ name: 'pooled', text: 'SELECT $1::int AS n', values: [n] })));
  assert.deepStrictEqual(values.map((result) => result.rows[0].n), [...Array(9).keys()]);
  await pool.end();
}

async function useState(client, turn, notes) {
  assert.strictEqual((await client.query('SHOW work_mem')).rows[0].work_mem, '7MB');
  if (mode === 'session') {
    assert.strictEqual((await client.query('SELECT n FROM mine')).rows[0].n, 5);
  }
  const heard = new Promise((resolve) => { notes.resolve = resolve; });
  const other = new Client(options);
  await other.connect();
  await other.query(`NOTIFY driver, '${turn}'`);
  await other.end();
  assert.strictEqual(await heard, 'driver ' + turn);
}

async function main() {
  const client = new Client({ ...options, statement_timeout: 55000 });
  const notes = {};
  client.on('notification', (note) => notes.resolve(note.channel + ' ' + note.payload));
  await client.connect();
  await ordinary(client);
  if (mode !== 'transaction') await client.query("SET work_mem TO '7MB'; LISTEN driver");
  if (mode === 'session') {
    await client.query('CREATE TEMP TABLE mine (n int); INSERT INTO mine VALUES (5); ' +
      'SELECT pg_advisory_lock(4714)');
  }
  for (let turn = 0; turn < 3; turn++) {
    await moved();
    assert.strictEqual((await client.query('SHOW statement_timeout')).rows[0].statement_timeout, '55s');
    if (mode !== 'transaction') await useState(client, turn, notes);
    await ordinary(client);
  }
  await client.end();
  console.log('DONE');
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
