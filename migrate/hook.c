/* SPDX-License-Identifier: PostgreSQL */
/*
 * A hook runs while the clients may be held: leases are renewed meanwhile, and its time-out is the
 * most it can add.  What it writes is kept next to the journal.
 */
#include "migrate/hook.h"

#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/lsn.h"
#include "migrate/move.h"
#include "migrate/remote.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OUTPUT_MAX ((size_t)1024 * 1024)
#define ENV_MAX 32

static bool is_phase(const char *name)
{
	if (strcmp(name, HOOK_UNDO) == 0)
		return true;
	for (enum phase phase = PHASE_PREPARE; phase < PHASE_COUNT; phase++) {
		if (strcmp(phase_row(phase)->name, name) == 0)
			return true;
	}
	return false;
}

bool hooks_check(const struct move *move, struct sbuf *error)
{
	const struct config_mover *conf = &move->config->mover;
	bool ok = true;

	for (size_t i = 0; i < conf->hook_count; i++) {
		const struct config_hook *hook = &conf->hooks[i];
		const char *names[] = {hook->before, hook->after};

		for (size_t j = 0; j < ARRAY_LEN(names); j++) {
			if (*names[j] == '\0' || is_phase(names[j]))
				continue;
			sbuf_printf(error, "hook %s: there is no phase %s; there are", hook->name,
			            names[j]);
			for (enum phase phase = PHASE_PREPARE; phase < PHASE_COUNT; phase++)
				sbuf_printf(error, " %s", phase_row(phase)->name);
			sbuf_add_str(error, " " HOOK_UNDO "\n");
			ok = false;
		}
	}
	return ok;
}

/* ---- environment ---- */

struct environment {
	char *items[ENV_MAX + 1];
	size_t count;
};

static void add(struct environment *env, const char *name, const char *value)
{
	if (env->count < ENV_MAX)
		env->items[env->count++] =
		    mem_must_printf("PGSHUNT_%s=%s", name, value == NULL ? "" : value);
}

static void add_number(struct environment *env, const char *name, int64_t value)
{
	char *text = mem_must_printf("%" PRId64, value);

	add(env, name, text);
	free(text);
}

static void add_lsn(struct environment *env, const char *name, uint64_t lsn)
{
	char text[LSN_TEXT_MAX];

	add(env, name, lsn == 0 ? "" : lsn_format(lsn, text));
}

static void add_shards(struct environment *env, const struct move *move)
{
	struct sbuf names;
	struct sbuf dbnames;

	sbuf_init(&names, OUTPUT_MAX);
	sbuf_init(&dbnames, OUTPUT_MAX);
	for (size_t i = 0; i < move->shard_count; i++) {
		sbuf_printf(&names, "%s%s", i > 0 ? " " : "", move->shards[i].name);
		sbuf_printf(&dbnames, "%s%s", i > 0 ? " " : "", move->shards[i].dbname);
	}
	add(env, "SHARDS", sbuf_text(&names));
	add(env, "DATABASES", sbuf_text(&dbnames));
	sbuf_free(&names);
	sbuf_free(&dbnames);
}

static void add_server(struct environment *env, const char *which,
                       const struct config_server *server)
{
	char *name = mem_must_printf("%s_HOST", which);

	add(env, which, server->name);
	add(env, name, server->admin_host);
	free(name);
	name = mem_must_printf("%s_PORT", which);
	add_number(env, name, server->admin_port);
	free(name);
}

static void make_environment(struct environment *env, const struct move *move,
                             const struct config_hook *hook, const char *phase, bool after)
{
	*env = (struct environment){0};
	add(env, "HOOK", hook->name);
	add(env, "PHASE", phase);
	add(env, "WHEN", after ? "after" : "before");
	add(env, "MOVE_ID", move->journal.id);
	add(env, "JOURNAL", move->journal.directory);
	add_shards(env, move);
	add_server(env, "SOURCE", move->source.conf);
	add_server(env, "TARGET", move->target.conf);
	add_number(env, "EPOCH", move->epoch);
	add(env, "SYSTEM_IDENTIFIER", move->system_identifier);
	add_lsn(env, "BARRIER_LSN", move->barrier);
	add_lsn(env, "SWITCH_LSN", move->switch_point);
	add_number(env, "OLD_TIMELINE", move->old_timeline);
	add_number(env, "NEW_TIMELINE", move->new_timeline);
	add_number(env, "RESUMED", move->resumed ? 1 : 0);
	add_number(env, "PROMOTED", move->promote_sent ? 1 : 0);
}

/* ---- running ---- */

/* Appends to the file of this hook in the journal's directory. */
static void keep_output(struct move *move, const struct config_hook *hook, const char *phase,
                        bool after, int code, const struct sbuf *output)
{
	char time_text[CLOCK_TEXT_MAX];
	struct sbuf text;
	char *path;
	int fd;

	if (move->journal.directory == NULL)
		return;
	path = mem_must_printf("%s/hook-%s.log", move->journal.directory, hook->name);
	for (char *p = path + strlen(move->journal.directory) + 1; *p != '\0'; p++) {
		if (*p == '/')
			*p = '_';
	}
	sbuf_init(&text, 2 * OUTPUT_MAX);
	sbuf_printf(&text, "%s %s %s, exit code %d: %s\n", clock_format(clock_wall(), time_text),
	            after ? "after" : "before", phase, code, hook->command);
	sbuf_add(&text, sbuf_text(output), output->len);
	if (output->len > 0 && output->data[output->len - 1] != '\n')
		sbuf_add_char(&text, '\n');
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text.data, text.len) != (ssize_t)text.len)
		ui_error(move->ui, "the output of hook %s could not be written to %s", hook->name,
		         path);
	if (fd >= 0)
		(void)close(fd);
	sbuf_free(&text);
	free(path);
}

/* Leases are renewed while it runs. */
static void on_idle(void *arg)
{
	struct move *move = arg;

	loop_sleep(&move->loop, USEC_PER_MSEC);
}

static bool run_hook(struct move *move, const struct config_hook *hook, const char *phase,
                     bool after)
{
	struct environment env;
	struct sbuf output;
	char *why = NULL;
	int code;

	make_environment(&env, move, hook, phase, after);
	sbuf_init(&output, OUTPUT_MAX);
	code = remote_command(hook->command, env.items, hook->timeout, &output, on_idle, move);
	for (size_t i = 0; i < env.count; i++)
		free(env.items[i]);
	keep_output(move, hook, phase, after, code, &output);
	if (code == -1)
		why = mem_must_printf("it did not end within %.1f s and was killed",
		                      (double)hook->timeout / (double)USEC_PER_SEC);
	else if (code != 0)
		why = mem_must_printf("exit code %d: %.300s", code, sbuf_text(&output));
	sbuf_free(&output);
	if (why == NULL)
		return true;
	if (move->promote_sent)
		move_problem(move, "hook %s %s %s: %s", hook->name, after ? "after" : "before",
		             phase, why);
	else
		(void)move_fail(move, "hook %s %s %s: %s", hook->name, after ? "after" : "before",
		                phase, why);
	free(why);
	return move->promote_sent;
}

bool hooks_run(struct move *move, const char *phase, bool after)
{
	const struct config_mover *conf = &move->config->mover;

	for (size_t i = 0; i < conf->hook_count; i++) {
		const struct config_hook *hook = &conf->hooks[i];

		if (strcmp(after ? hook->after : hook->before, phase) == 0 &&
		    !run_hook(move, hook, phase, after))
			return false;
	}
	return true;
}

/* ---- showing ---- */

void hooks_print(const struct move *move)
{
	const struct config_mover *conf = &move->config->mover;

	for (size_t i = 0; i < conf->hook_count; i++) {
		const struct config_hook *hook = &conf->hooks[i];

		if (*hook->before != '\0')
			ui_line(move->ui, "  hook %s before %s, at most %.1f s: %s", hook->name,
			        hook->before, (double)hook->timeout / (double)USEC_PER_SEC,
			        hook->command);
		if (*hook->after != '\0')
			ui_line(move->ui, "  hook %s after %s, at most %.1f s: %s", hook->name,
			        hook->after, (double)hook->timeout / (double)USEC_PER_SEC,
			        hook->command);
	}
}

void hooks_json(const struct move *move, struct sbuf *out)
{
	const struct config_mover *conf = &move->config->mover;

	json_open(out, "hooks", '[');
	for (size_t i = 0; i < conf->hook_count; i++) {
		const struct config_hook *hook = &conf->hooks[i];

		json_open(out, NULL, '{');
		json_str(out, "name", hook->name);
		json_str(out, "before", *hook->before == '\0' ? NULL : hook->before);
		json_str(out, "after", *hook->after == '\0' ? NULL : hook->after);
		json_str(out, "command", hook->command);
		json_close(out, '}');
	}
	json_close(out, ']');
}
