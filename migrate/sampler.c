/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/sampler.h"

#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/move.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAMPLE_EVERY (100 * USEC_PER_MSEC)
#define SERVERS_EVERY 10
#define ASK_TIMEOUT (80 * USEC_PER_MSEC)
#define CONNECT_TIMEOUT (2 * USEC_PER_SEC)
#define RETRY_EVERY (1 * USEC_PER_SEC)
/* An hour of ten databases is 40 MB; who watches longer has seen enough. */
#define SAMPLES_MAX (64 * 1024 * 1024)
#define LINE_BYTES ((size_t)64 * 1024)

enum { SAMPLER_ON, SAMPLER_HELD, SAMPLER_END };

struct source {
	struct link link;
	bool proxy; /* or a pgbouncer: it is asked for SHOW STATS */
	usec_t tried_at;
};

/* ---- the process ---- */

struct process {
	const struct config *config;
	struct loop loop;
	struct source *sources;
	size_t count;
	atomic_int *state;
	int fd;
	int64_t written;
	int64_t turn;
};

static volatile sig_atomic_t never;

/* Where there is no proxy, the pgbouncers are what clients go through.  Of several processes behind
 * one address each connection may reach another: what they say does not add up, and is left out. */
static void add_bouncers(struct process *process, const struct config_pgbouncer *from)
{
	const struct config_list *sockets = &from->unix_socket_directories;
	size_t count = sockets->count > 0 ? sockets->count : from->processes > 1 ? 0 : 1;

	process->sources =
	    mem_must_grow(process->sources, process->count + count + 1, sizeof(*process->sources));
	for (size_t i = 0; i < count; i++) {
		struct source *source = &process->sources[process->count++];
		struct link_target target = {.host = sockets->count > 0 ? sockets->items[i]
		                                                        : from->host,
		                             .port = from->port,
		                             .user = from->user,
		                             .dbname = "pgbouncer",
		                             .password_file = from->password_file,
		                             .password_env = from->password_env,
		                             .console = true};

		*source = (struct source){.proxy = true};
		link_init(&source->link, from->name, &target);
	}
}

static void make_sources(struct process *process)
{
	const struct config *config = process->config;

	process->sources = mem_must_alloc((config->mover.proxy_count + config->server_count + 1) *
	                                  sizeof(*process->sources));
	for (size_t i = 0; i < config->mover.proxy_count; i++) {
		const struct config_mover_proxy *from = &config->mover.proxies[i];
		struct source *source = &process->sources[process->count++];
		struct link_target target = {.host = from->host,
		                             .port = from->port,
		                             .user = from->user,
		                             .dbname = from->dbname,
		                             .password_file = from->password_file,
		                             .password_env = from->password_env,
		                             .console = true};

		source->proxy = true;
		link_init(&source->link, from->name, &target);
	}
	for (size_t i = 0; i < config->server_count; i++) {
		struct source *source = &process->sources[process->count++];
		struct link_target target;

		server_target(&config->servers[i], &target);
		link_init(&source->link, config->servers[i].name, &target);
	}
	for (size_t i = 0; config->mover.proxy_count == 0 && i < config->mover.pgbouncer_count; i++)
		add_bouncers(process, &config->mover.pgbouncers[i]);
}

static void write_line(struct process *process, struct sbuf *line)
{
	sbuf_add_str(line, "}\n");
	if (process->written < SAMPLES_MAX && sbuf_ok(line) &&
	    write(process->fd, line->data, line->len) == (ssize_t)line->len)
		process->written += (int64_t)line->len;
	sbuf_free(line);
}

/* One database of the configuration, summed over all proxies; pgbouncers may call it as the server
 * does. */
static void write_database(struct process *process, usec_t wall,
                           const struct config_database *database)
{
	static const char *const columns[][2] = {{"x", "total_xact_count"},
	                                         {"q", "total_query_count"},
	                                         {"xt", "total_xact_time"},
	                                         {"qt", "total_query_time"},
	                                         {"wt", "total_wait_time"}};
	int64_t sums[ARRAY_LEN(columns)] = {0};
	struct sbuf line;

	for (size_t i = 0; i < process->count; i++) {
		const struct source *source = &process->sources[i];

		for (int row = 0; source->proxy && row < link_rows(&source->link); row++) {
			const char *name = link_value(&source->link, row, "database");
			bool same = name != NULL && (strcmp(database->name, name) == 0 ||
			                             (process->config->mover.proxy_count == 0 &&
			                              strcmp(database->dbname, name) == 0));

			for (size_t j = 0; same && j < ARRAY_LEN(columns); j++)
				sums[j] += link_number(&source->link, row, columns[j][1], 0);
		}
	}
	sbuf_init(&line, LINE_BYTES);
	json_open(&line, NULL, '{');
	json_int(&line, "t", wall);
	json_str(&line, "db", database->name);
	for (size_t j = 0; j < ARRAY_LEN(columns); j++)
		json_int(&line, columns[j][0], sums[j]);
	write_line(process, &line);
}

static void write_server(struct process *process, usec_t wall, const struct link *link)
{
	for (int row = 0; row < link_rows(link); row++) {
		struct sbuf line;

		sbuf_init(&line, LINE_BYTES);
		json_open(&line, NULL, '{');
		json_int(&line, "t", wall);
		json_str(&line, "server", link->name);
		json_str(&line, "db", link_value(link, row, "datname"));
		json_int(&line, "c", link_number(link, row, "xact_commit", 0));
		json_int(&line, "r", link_number(link, row, "xact_rollback", 0));
		write_line(process, &line);
	}
}

/* Connects what is not connected, now and then, one in a turn: a server's processes take their host
 * milliseconds to start, and nobody waits for ours.  True if all proxies can be asked. */
static bool connect_next(struct process *process)
{
	struct link *link = NULL;
	bool all = true;

	for (size_t i = 0; i < process->count; i++) {
		struct source *source = &process->sources[i];

		if (source->link.state == LINK_BUSY)
			link_close(&source->link);
		if (link == NULL && source->link.state != LINK_IDLE &&
		    clock_now() - source->tried_at >= RETRY_EVERY) {
			source->tried_at = clock_now();
			link = &source->link;
			link_connect(link);
		}
	}
	(void)!loop_wait(&process->loop, &link, link == NULL ? 0 : 1,
	                 clock_now() + CONNECT_TIMEOUT, false);
	for (size_t i = 0; i < process->count; i++)
		all = all &&
		      (!process->sources[i].proxy || process->sources[i].link.state == LINK_IDLE);
	return all;
}

static void sample(struct process *process)
{
	bool servers = process->turn++ % SERVERS_EVERY == 0;
	struct link **links = mem_must_alloc((process->count + 1) * sizeof(struct link *));
	size_t count = 0;
	usec_t wall;
	bool complete = connect_next(process);

	wall = clock_wall();
	for (size_t i = 0; i < process->count; i++) {
		struct source *source = &process->sources[i];

		if (source->link.state != LINK_IDLE || (!source->proxy && !servers))
			continue;
		link_send(&source->link, source->proxy
		                             ? "SHOW STATS"
		                             : "SELECT datname, xact_commit, xact_rollback FROM"
		                               " pg_stat_database WHERE datid <> 0 AND datname NOT"
		                               " LIKE 'template%'");
		links[count++] = &source->link;
	}
	if (loop_wait(&process->loop, links, count, clock_now() + ASK_TIMEOUT, false) ==
	    WAIT_DONE) {
		for (size_t i = 0; i < process->count; i++) {
			const struct source *source = &process->sources[i];

			complete = complete && (!source->proxy || link_ok(&source->link));
			if (!source->proxy && servers && link_ok(&source->link))
				write_server(process, wall, &source->link);
		}
		for (size_t i = 0; complete && i < process->config->database_count; i++)
			write_database(process, wall, &process->config->databases[i]);
	}
	free(links);
}

/* Of the mover's descriptors none is kept: its locks must end with it. */
static void __attribute__((noreturn))
run_process(const struct config *config, const char *path, atomic_int *state, pid_t mover)
{
	struct process process = {.config = config, .state = state};
	long most = sysconf(_SC_OPEN_MAX);

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != mover)
		_exit(0);
	for (int fd = STDERR_FILENO + 1; fd < (most > 0 && most < 4096 ? (int)most : 4096); fd++)
		(void)close(fd);
	(void)signal(SIGINT, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	(void)signal(SIGTERM, SIG_DFL);
	/* Whoever has work to do goes first. */
	(void)setpriority(PRIO_PROCESS, 0, 10);
	process.loop.stop = &never;
	process.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	make_sources(&process);
	while (process.fd >= 0 && atomic_load(state) != SAMPLER_END) {
		usec_t next = clock_now() + SAMPLE_EVERY;

		if (atomic_load(state) == SAMPLER_ON)
			sample(&process);
		if (next > clock_now())
			loop_sleep(&process.loop, next - clock_now());
	}
	_exit(0);
}

/* ---- the mover's side ---- */

void sampler_start(struct sampler *sampler, const struct config *config, struct ui *ui)
{
	pid_t mover = getpid();
	void *shared;

	*sampler = (struct sampler){0};
	if (config->mover.proxy_count == 0 && config->mover.pgbouncer_count == 0)
		return;
	shared = mmap(NULL, sizeof(atomic_int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
	              -1, 0);
	if (shared == MAP_FAILED)
		return;
	sampler->state = shared;
	atomic_init(sampler->state, SAMPLER_ON);
	sampler->path = mem_must_printf("%s/.samples", config->mover.journal_directory);
	sampler->pid = fork();
	if (sampler->pid == 0)
		run_process(config, sampler->path, sampler->state, mover);
	ui->held = sampler->state;
}

void sampler_stop(struct sampler *sampler, struct ui *ui, const char *directory)
{
	char *to;

	ui->held = NULL;
	if (sampler->state == NULL)
		return;
	atomic_store(sampler->state, SAMPLER_END);
	if (sampler->pid > 0) {
		(void)kill(sampler->pid, SIGTERM);
		while (waitpid(sampler->pid, NULL, 0) < 0 && errno == EINTR)
			continue;
	}
	to = directory == NULL ? NULL : mem_must_printf("%s/" SAMPLES_FILE, directory);
	if (to == NULL || rename(sampler->path, to) != 0)
		(void)unlink(sampler->path);
	free(to);
	free(sampler->path);
	(void)munmap(sampler->state, sizeof(atomic_int));
	*sampler = (struct sampler){0};
}
