/* SPDX-License-Identifier: PostgreSQL */
/*
 * Clients go from a worker that has too much to do to one that has time.  New clients are given to
 * the first worker that is not full (setting worker_fill): one busy worker uses less CPU than two
 * half idle ones, because it finds more to do each time it wakes.  When it is full, clients leave
 * it, each at its safe point, with parameters and prepared statements; its cancel key stays good.
 * Worker threads.
 */
#ifndef CORE_RELOCATE_H
#define CORE_RELOCATE_H

struct client;
struct mail_client;
struct worker;

/* Every tick: measures how busy the worker is, decides whether clients are to leave. */
void relocate_tick(struct worker *worker);

/* The client has come to its safe point and worker->shed clients are to leave: sends it away if
 * nothing of it is under way. */
void relocate_client(struct client *client);

/* Takes a client in; takes the letter over. */
void relocate_receive(struct worker *worker, struct mail_client *mail);

/* The same when the worker has ended: the client is closed. */
void relocate_drop(struct worker *worker, struct mail_client *mail);

#endif
