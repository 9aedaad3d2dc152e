/* SPDX-License-Identifier: PostgreSQL */
/* The subcommands of pgshunt_load; each returns the exit code. */
#ifndef LOAD_RUN_H
#define LOAD_RUN_H

int run_main(int argc, char **argv);
int account_main(int argc, char **argv);

#endif
