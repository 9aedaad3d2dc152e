/* SPDX-License-Identifier: PostgreSQL */
#include "base/mem.h"

#include "base/clock.h"
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WAIT_NSEC 5000000
#define WAITS_PER_LINE 1000

#define SPARE_BLOCKS 512

static atomic_bool patient;

static struct {
	pthread_mutex_t lock;
	void *blocks[SPARE_BLOCKS];
	atomic_size_t count;
} spare = {.lock = PTHREAD_MUTEX_INITIALIZER};

static NORETURN void out_of_memory(void)
{
	static const char text[] = "pgshunt: out of memory\n";

	(void)fwrite(text, 1, sizeof(text) - 1, stderr);
	abort();
}

void mem_be_patient(void)
{
	atomic_store(&patient, true);
	mem_spare_fill();
}

void mem_wait(unsigned *tries, size_t size)
{
	const struct timespec moment = {0, WAIT_NSEC};

	if (!atomic_load(&patient))
		out_of_memory();
	if ((*tries)++ % WAITS_PER_LINE == 0)
		log_error("out of memory: the console and changes of configuration wait for %zu "
		          "bytes",
		          size);
	(void)nanosleep(&moment, NULL);
}

void mem_complain(const char *what)
{
	static atomic_llong last;
	long long now = clock_now();
	long long before = atomic_load(&last);

	if ((before == 0 || now - before >= USEC_PER_SEC) &&
	    atomic_compare_exchange_strong(&last, &before, now))
		log_error("out of memory: %s", what);
}

/* ---- what must not fail ---- */

void *mem_must_alloc(size_t size)
{
	unsigned tries = 0;
	void *ptr;

	while ((ptr = calloc(1, size == 0 ? 1 : size)) == NULL)
		mem_wait(&tries, size);
	return ptr;
}

void *mem_must_grow(void *ptr, size_t count, size_t size)
{
	unsigned tries = 0;
	void *grown;

	if (size != 0 && count > SIZE_MAX / size)
		out_of_memory();
	while ((grown = realloc(ptr, count * size == 0 ? 1 : count * size)) == NULL)
		mem_wait(&tries, count * size);
	return grown;
}

char *mem_must_strdup(const char *text)
{
	return text == NULL ? NULL : mem_must_strndup(text, strlen(text));
}

char *mem_must_strndup(const char *text, size_t len)
{
	char *copy = mem_must_alloc(len + 1);

	memcpy(copy, text, len);
	copy[len] = '\0';
	return copy;
}

char *mem_must_vprintf(const char *fmt, va_list args)
{
	char *text = NULL;
	unsigned tries = 0;
	va_list ap;
	int n;

	for (;;) {
		va_copy(ap, args);
		n = vasprintf(&text, fmt, ap);
		va_end(ap);
		if (n >= 0)
			return text;
		mem_wait(&tries, strlen(fmt));
	}
}

char *mem_must_printf(const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	text = mem_must_vprintf(fmt, ap);
	va_end(ap);
	return text;
}

/* ---- what is kept for letters ---- */

void *mem_spare_alloc(size_t size)
{
	void *block = calloc(1, size);

	if (LIKELY(block != NULL) || size > MEM_SPARE_SIZE)
		return block;
	(void)pthread_mutex_lock(&spare.lock);
	if (spare.count > 0) {
		block = spare.blocks[--spare.count];
		memset(block, 0, MEM_SPARE_SIZE);
	}
	(void)pthread_mutex_unlock(&spare.lock);
	return block;
}

void mem_spare_fill(void)
{
	if (LIKELY(atomic_load_explicit(&spare.count, memory_order_relaxed) == SPARE_BLOCKS))
		return;
	(void)pthread_mutex_lock(&spare.lock);
	while (spare.count < SPARE_BLOCKS) {
		void *block = malloc(MEM_SPARE_SIZE);

		if (block == NULL)
			break;
		spare.blocks[spare.count++] = block;
	}
	(void)pthread_mutex_unlock(&spare.lock);
}

void mem_spare_free(void)
{
	(void)pthread_mutex_lock(&spare.lock);
	while (spare.count > 0)
		free(spare.blocks[--spare.count]);
	(void)pthread_mutex_unlock(&spare.lock);
}

void mem_free_secret(char *secret)
{
	if (secret == NULL)
		return;
	explicit_bzero(secret, strlen(secret));
	free(secret);
}
