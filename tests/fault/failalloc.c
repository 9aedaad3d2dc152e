/* SPDX-License-Identifier: PostgreSQL */
/*
 * To be preloaded (LD_PRELOAD): an allocator that fails when it is told to.  The environment
 * variable PGSHUNT_FAILALLOC names a file that holds a struct orders; the test that made it writes
 * to it while the program runs.  Without orders everything goes to the allocator behind this one.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct orders {
	atomic_uint one_in; /* every allocation fails with the probability 1/one_in; 0: none does */
	atomic_uint countdown; /* when it comes to 0, that one allocation fails */
	atomic_uint at_least;  /* smaller ones never fail */
	atomic_uint failed;    /* so many did */
	atomic_uint asked;     /* so many could have */
};

static _Atomic(struct orders *) orders;
static _Thread_local uint64_t luck;

/* Until all are initialized, a sanitizer that may stand behind this one, too, and while dlsym()
 * looks for that, this serves; it is never given back. */
static _Alignas(16) char early[1 << 20];
static atomic_size_t early_used;
static atomic_bool ready;
static _Thread_local int looking;

static void *early_alloc(size_t size)
{
	size_t at = atomic_fetch_add(&early_used, ((size + 15) & ~(size_t)15) + 16);

	if (at + size + 16 > sizeof(early))
		abort();
	memcpy(early + at, &size, sizeof(size));
	return early + at + 16;
}

static bool is_early(const void *ptr)
{
	return (const char *)ptr >= early && (const char *)ptr < early + sizeof(early);
}

static bool too_early(void)
{
	return looking > 0 || !atomic_load(&ready);
}

static void *next(const char *name)
{
	void *found;

	looking++;
	found = dlsym(RTLD_NEXT, name);
	looking--;
	if (found == NULL)
		abort();
	return found;
}

#define NEXT(type, name)                                                                           \
	static type next_##name(void)                                                              \
	{                                                                                          \
		static _Atomic(type) known;                                                        \
		type found = known;                                                                \
                                                                                                   \
		if (found == NULL)                                                                 \
			known = found = (type)next(#name);                                         \
		return found;                                                                      \
	}

typedef void *(*malloc_fn)(size_t);
typedef void *(*calloc_fn)(size_t, size_t);
typedef void *(*aligned_alloc_fn)(size_t, size_t);
typedef void *(*realloc_fn)(void *, size_t);
typedef void (*free_fn)(void *);
typedef int (*posix_memalign_fn)(void **, size_t, size_t);

NEXT(malloc_fn, malloc)
NEXT(calloc_fn, calloc)
NEXT(realloc_fn, realloc)
NEXT(free_fn, free)
NEXT(aligned_alloc_fn, aligned_alloc)
NEXT(posix_memalign_fn, posix_memalign)

/* Not before: a sanitizer that stands behind this one is not ready for such calls. */
__attribute__((constructor)) static void take_orders(void)
{
	const char *path = getenv("PGSHUNT_FAILALLOC");
	int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
	void *map =
	    fd < 0 ? MAP_FAILED
	           : mmap(NULL, sizeof(struct orders), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (fd >= 0)
		(void)close(fd);
	if (map != MAP_FAILED)
		atomic_store(&orders, (struct orders *)map);
	atomic_store(&ready, true);
}

static uint64_t throw_dice(void)
{
	if (luck == 0)
		luck = (uintptr_t)&luck | 1;
	luck ^= luck << 13;
	luck ^= luck >> 7;
	luck ^= luck << 17;
	return luck >> 16;
}

static int fails(size_t size)
{
	struct orders *told = atomic_load(&orders);
	unsigned one_in;
	unsigned left;

	if (told == NULL)
		return 0;
	one_in = atomic_load(&told->one_in);
	left = atomic_load(&told->countdown);
	if ((one_in == 0 && left == 0) || size < atomic_load(&told->at_least))
		return 0;
	atomic_fetch_add(&told->asked, 1);
	while (left > 0 && !atomic_compare_exchange_weak(&told->countdown, &left, left - 1))
		;
	if (left != 1 && (one_in == 0 || throw_dice() % one_in != 0))
		return 0;
	atomic_fetch_add(&told->failed, 1);
	errno = ENOMEM;
	return 1;
}

void *malloc(size_t size)
{
	if (too_early())
		return early_alloc(size);
	return fails(size) ? NULL : next_malloc()(size);
}

void *calloc(size_t count, size_t size)
{
	if (too_early())
		return early_alloc(count * size);
	return fails(count * size) ? NULL : next_calloc()(count, size);
}

void *realloc(void *ptr, size_t size)
{
	void *moved;
	size_t old = 0;

	if (!is_early(ptr) && !too_early())
		return fails(size) ? NULL : next_realloc()(ptr, size);
	moved = malloc(size);
	if (is_early(ptr))
		memcpy(&old, (const char *)ptr - 16, sizeof(old));
	if (moved != NULL && old > 0)
		memcpy(moved, ptr, old < size ? old : size);
	return moved;
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return fails(size) ? NULL : next_aligned_alloc()(alignment, size);
}

int posix_memalign(void **ptr, size_t alignment, size_t size)
{
	return fails(size) ? ENOMEM : next_posix_memalign()(ptr, alignment, size);
}

void free(void *ptr)
{
	if (ptr != NULL && !is_early(ptr))
		next_free()(ptr);
}
