/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshuntd: the proxy.  Command line, configuration, start.
 */
#include "base/fault.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/standard.h"
#include "conf/config.h"
#include "conf/show.h"
#include "control/console.h"
#include "control/health.h"
#include "control/http.h"
#include "control/man.h"
#include "core/proxy.h"
#include "core/takeover.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_CONFIG "/etc/pgshunt/pgshunt.yml"
#define EXIT_CONFIG 2

static const char usage[] =
    "pgshuntd stands in front of PostgreSQL servers; it can hold the clients of one database,\n"
    "move them to another server and release them.\n"
    "\n"
    "Usage: pgshuntd [--config FILE | FILE]\n"
    "\n"
    "FILE is YAML or a pgbouncer.ini.\n"
    "\n"
    "  -c, --config FILE    configuration (default " DEFAULT_CONFIG ")\n"
    "  -t, --check-config   read the configuration, say what is wrong with it, and end\n"
    "  -q, --quiet          log nothing to stderr: give log_file (logfile) or syslog\n"
    "  -v, --verbose        log more: log_level debug\n"
    "  -d, --daemon         go to the background once the configuration has been read\n"
    "  -R, --takeover       take the listening sockets over from the pgshuntd that runs, which lets\n"
    "                       its clients finish and ends; starts as usual if none runs\n"
    "  -u, --user USER      user to become if root starts it, instead of the setting user\n"
    "      --settings       print the table of all settings (Markdown)\n"
    "      --man            print the manual page\n"
    "  -V, --version        print the version\n"
    "  -h, --help           print this\n"
    "\n"
    "It runs in the foreground.  SIGHUP reads the configuration again; SIGTERM or SIGINT lets\n"
    "transactions finish and ends (with as_pgbouncer SIGTERM waits until all clients have gone); a\n"
    "second SIGINT, or SIGQUIT, ends at once; SIGUSR1 pauses all databases, SIGUSR2 lets them go on.\n"
    "Exit code: 0 ended as asked, 1 could not start, 2 wrong command line or configuration.\n";

struct arguments {
	const char *config;
	bool check;
	bool quiet;
	bool verbose;
	bool daemon;
	const char *user;
	bool takeover;
};

/* False: the program is to end with *code. */
static bool arguments_parse(int argc, char **argv, struct arguments *args, int *code)
{
	static const struct option options[] = {
	    {"config", required_argument, NULL, 'c'},
	    {"check-config", no_argument, NULL, 't'},
	    {"settings", no_argument, NULL, 's'},
	    {"version", no_argument, NULL, 'V'},
	    {"man", no_argument, NULL, 'm'},
	    {"help", no_argument, NULL, 'h'},
	    {"quiet", no_argument, NULL, 'q'},
	    {"verbose", no_argument, NULL, 'v'},
	    {"daemon", no_argument, NULL, 'd'},
	    {"user", required_argument, NULL, 'u'},
	    {"takeover", no_argument, NULL, 'R'},
	    {"reboot", no_argument, NULL, 'R'},
	    {NULL, 0, NULL, 0},
	};
	int c;

	*code = 0;
	while ((c = getopt_long(argc, argv, "c:thVqvdu:R", options, NULL)) != -1) {
		switch (c) {
		case 'c':
			args->config = optarg;
			break;
		case 't':
			args->check = true;
			break;
		case 'q':
			args->quiet = true;
			break;
		case 'v':
			args->verbose = true;
			break;
		case 'd':
			args->daemon = true;
			break;
		case 'R':
			args->takeover = true;
			break;
		case 'u':
			args->user = optarg;
			break;
		case 's':
			config_print_reference(stdout);
			return false;
		case 'm':
			man_print(stdout, usage);
			return false;
		case 'V':
			(void)printf("pgshuntd %s\n", PGSHUNT_VERSION);
			return false;
		case 'h':
			(void)fputs(usage, stdout);
			return false;
		default:
			(void)fputs("Try \"pgshuntd --help\".\n", stderr);
			*code = EXIT_CONFIG;
			return false;
		}
	}
	if (optind + 1 == argc && strcmp(args->config, DEFAULT_CONFIG) == 0)
		args->config = argv[optind++];
	if (optind < argc) {
		(void)fprintf(stderr,
		              "pgshuntd: unexpected argument \"%s\"\nTry \"pgshuntd --help\".\n",
		              argv[optind]);
		*code = EXIT_CONFIG;
		return false;
	}
	return true;
}

/* False with a message. */
static bool main_become(const char *name)
{
	const struct passwd *user = getpwnam(name);

	if (user == NULL) {
		(void)fprintf(stderr, "pgshuntd: there is no user \"%s\"\n", name);
		return false;
	}
	if (user->pw_uid == geteuid() && user->pw_uid == getuid())
		return true;
	/* The last of them gives up the right to do the others. */
	if (geteuid() != 0 || initgroups(name, user->pw_gid) != 0 || setgid(user->pw_gid) != 0 ||
	    setuid(user->pw_uid) != 0) {
		(void)fprintf(stderr, "pgshuntd: cannot become user \"%s\": %s\n", name,
		              geteuid() != 0 ? "only root can" : strerror(errno));
		return false;
	}
	return true;
}

/* What the command line and the settings say of the process itself; false with a message. */
static bool main_settle(const struct arguments *args, struct config *config)
{
	const char *user = args->user != NULL ? args->user : config->proxy.user;

	if (user[0] != '\0' && !main_become(user))
		return false;
	if (args->verbose)
		config->proxy.log_level = LOG_LEVEL_DEBUG; /* nobody else knows it yet */
	if (args->daemon && config->proxy.log_file[0] == '\0' &&
	    config->proxy.log_destination != CONFIG_LOG_SYSLOG) {
		(void)fputs("pgshuntd: in the background the log needs log_file or syslog\n", stderr);
		return false;
	}
	if (args->daemon && daemon(1, 0) != 0) {
		(void)fprintf(stderr, "pgshuntd: cannot go to the background: %s\n",
			      strerror(errno));
		return false;
	}
	if (args->quiet && !args->daemon) {
		int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

		if (fd >= 0 && dup2(fd, STDERR_FILENO) >= 0)
			(void)close(fd);
	}
	return true;
}

/* Before the process goes to the background: what a service manager says, it says to this pid. */
static bool main_inherit(struct proxy *proxy)
{
	struct sbuf error;
	bool good;

	sbuf_init(&error, 1024);
	notify_open();
	good = inherit_from_environment(&proxy->inherited, &error);
	if (!good)
		(void)fprintf(stderr, "pgshuntd: %s\n", sbuf_text(&error));
	sbuf_free(&error);
	return good;
}

/* What the process that runs has to offer, if there is one.  False with a message. */
static bool main_take_over(const struct config *config, struct proxy *proxy,
                           struct takeover *takeover)
{
	struct sbuf error;
	bool good = true;

	sbuf_init(&error, 1024);
	switch (takeover_ask(&config->proxy, takeover, &proxy->inherited, &error)) {
	case TAKEOVER_OFFERED:
		proxy->takeover = takeover;
		break;
	case TAKEOVER_NOBODY:
		log_info("no pgshuntd runs from which to take over: starting as usual");
		break;
	case TAKEOVER_FAILED:
		(void)fprintf(stderr, "pgshuntd: cannot take over: %s\n", sbuf_text(&error));
		good = false;
		break;
	}
	sbuf_free(&error);
	return good;
}

static bool main_open(struct proxy *proxy)
{
	health_start(proxy);
	return http_start(proxy);
}

static void main_leave(void)
{
	http_leave();
}

static void main_close(void)
{
	console_close_all();
	http_stop();
	health_stop();
}

int main(int argc, char **argv)
{
	static struct proxy proxy;
	static struct takeover takeover;
	struct arguments args = {.config = DEFAULT_CONFIG};
	struct config *config;
	struct sbuf errors;
	int code;

	standard_files_open();
	if (!arguments_parse(argc, argv, &args, &code))
		return code;
	fault_init();
	config_clean_environment();
	sbuf_init(&errors, (size_t)256 * 1024);
	if (!config_load(args.config, &config, &errors)) {
		(void)fprintf(stderr, "%s", sbuf_text(&errors));
		if (errors.len == 0 || sbuf_text(&errors)[errors.len - 1] != '\n')
			(void)fputc('\n', stderr);
		sbuf_free(&errors);
		return EXIT_CONFIG;
	}
	if (!proxy_check_files(config, &errors)) {
		(void)fprintf(stderr, "%s\n", sbuf_text(&errors));
		sbuf_free(&errors);
		config_unref(config);
		return EXIT_CONFIG;
	}
	sbuf_free(&errors);
	if (args.check) {
		(void)printf("%s: good\n", args.config);
		config_unref(config);
		return 0;
	}
	if (!main_inherit(&proxy) || !main_settle(&args, config) ||
	    (args.takeover && !main_take_over(config, &proxy, &takeover))) {
		inherit_close(&proxy.inherited);
		config_unref(config);
		return 1;
	}
	proxy.before_listen = main_open;
	proxy.left = main_leave;
	proxy.before_free = main_close;
	proxy.console_cancel = console_cancel;
	proxy.console_rows = console_rows;
	proxy.console_kill = console_kill;
	if (!proxy_init(&proxy, config, args.config, console_adopt))
		return 1;
	return proxy_run(&proxy);
}
