// SPDX-License-Identifier: GPL-2.0
/*
 * The synchronisation objects of POSIX and C11 inside a shared mapping of the
 * device, used by processes that have nothing else in common.
 *
 *   sync OBJECT init [N]     prepares the object, for N processes
 *   sync OBJECT work ROUNDS  one of the contending processes
 *
 * Every worker adds ROUNDS to the counter in the first eight bytes of the
 * buffer, protected by the object alone; the caller compares. Exits with 1 and
 * a line on stderr when a call fails or the object does not keep its promise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct shared {
	volatile uint64_t counter;	/* at offset 0, where the caller reads it */
	volatile uint64_t shadow;	/* equal to counter under the lock */
	_Atomic uint64_t arrived;
	_Atomic uint64_t started;
	uint64_t workers;
	volatile int turn;
	/* At offset 64: its first int is the futex word, which the caller reads. */
	_Alignas(64) pthread_mutex_t mutex;
	pthread_cond_t cond;
	pthread_barrier_t barrier;
	pthread_rwlock_t rwlock;
	sem_t sem;
} *shared;

#define NAMED "/rust_mmapdev"

static void fail(const char *what, int err)
{
	fprintf(stderr, "%s: %s\n", what, strerror(err));
	exit(1);
}

/* pthread functions return the error ... */
#define P(call) do { int e = (call); if (e) fail(#call, e); } while (0)
/* ... the others set errno. */
#define E(call) do { if ((call) < 0) fail(#call, errno); } while (0)

static void promise(int kept, const char *what)
{
	if (!kept) {
		fprintf(stderr, "broken: %s\n", what);
		exit(1);
	}
}

/*
 * Loses updates unless the caller excludes the others: it lets them run
 * between its load and its store.
 */
static void add_one(void)
{
	uint64_t value = shared->counter;

	promise(shared->shadow == value, "counter and its shadow are equal");
	sched_yield();
	shared->shadow = value + 1;
	shared->counter = value + 1;
}

static void none_work(void)
{
	uint64_t value = shared->counter;

	sched_yield();
	shared->counter = value + 1;
}

static void mutex_init_as(int protocol, int robust)
{
	pthread_mutexattr_t attr;

	P(pthread_mutexattr_init(&attr));
	P(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
	P(pthread_mutexattr_setprotocol(&attr, protocol));
	P(pthread_mutexattr_setrobust(&attr, robust));
	P(pthread_mutex_init(&shared->mutex, &attr));
}

static void mutex_init(void)
{
	mutex_init_as(PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED);
}

static void pi_init(void)
{
	mutex_init_as(PTHREAD_PRIO_INHERIT, PTHREAD_MUTEX_STALLED);
}

static void robust_init(void)
{
	mutex_init_as(PTHREAD_PRIO_NONE, PTHREAD_MUTEX_ROBUST);
}

static void mutex_work(void)
{
	P(pthread_mutex_lock(&shared->mutex));
	add_one();
	P(pthread_mutex_unlock(&shared->mutex));
}

/* Takes the mutex, says so with a line, and waits to be killed. */
static void robust_hold(void)
{
	P(pthread_mutex_lock(&shared->mutex));
	puts("held");
	fflush(stdout);
	for (;;)
		pause();
}

/* Whoever comes after a killed owner is told so, and may repair. */
static void robust_inherit(void)
{
	int err = pthread_mutex_lock(&shared->mutex);

	if (err != EOWNERDEAD)
		fail("pthread_mutex_lock after the owner was killed, not EOWNERDEAD", err);
	P(pthread_mutex_consistent(&shared->mutex));
	P(pthread_mutex_unlock(&shared->mutex));
	mutex_work();
}

static void cond_init(void)
{
	pthread_condattr_t attr;

	mutex_init();
	P(pthread_condattr_init(&attr));
	P(pthread_condattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
	P(pthread_cond_init(&shared->cond, &attr));
}

/* Two workers: an even one waits for the odd one's turn, and back. */
static void cond_work(void)
{
	static int me = -1;

	if (me < 0)
		me = atomic_fetch_add(&shared->arrived, 1) & 1;
	P(pthread_mutex_lock(&shared->mutex));
	while (shared->turn != me)
		P(pthread_cond_wait(&shared->cond, &shared->mutex));
	add_one();
	shared->turn = !me;
	P(pthread_cond_broadcast(&shared->cond));
	P(pthread_mutex_unlock(&shared->mutex));
}

static void barrier_init(void)
{
	pthread_barrierattr_t attr;

	P(pthread_barrierattr_init(&attr));
	P(pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
	P(pthread_barrier_init(&shared->barrier, &attr, shared->workers));
}

static void barrier_wait(void)
{
	int err = pthread_barrier_wait(&shared->barrier);

	if (err && err != PTHREAD_BARRIER_SERIAL_THREAD)
		fail("pthread_barrier_wait", err);
}

/* Nobody passes before all have arrived, round after round. */
static void barrier_work(void)
{
	static uint64_t round;

	__sync_fetch_and_add(&shared->counter, 1);
	barrier_wait();
	promise(shared->counter == ++round * shared->workers,
		"all have arrived when the barrier lets go");
	barrier_wait();
}

static void rwlock_init(void)
{
	pthread_rwlockattr_t attr;

	P(pthread_rwlockattr_init(&attr));
	P(pthread_rwlockattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
	P(pthread_rwlock_init(&shared->rwlock, &attr));
}

static void rwlock_work(void)
{
	P(pthread_rwlock_rdlock(&shared->rwlock));
	promise(shared->counter == shared->shadow, "no writer beside a reader");
	P(pthread_rwlock_unlock(&shared->rwlock));
	P(pthread_rwlock_wrlock(&shared->rwlock));
	add_one();
	P(pthread_rwlock_unlock(&shared->rwlock));
}

static void sem_init_shared(void)
{
	E(sem_init(&shared->sem, 1, 1));
}

static void sem_work(void)
{
	E(sem_wait(&shared->sem));
	add_one();
	E(sem_post(&shared->sem));
}

static void named_init(void)
{
	sem_unlink(NAMED);
	if (sem_open(NAMED, O_CREAT | O_EXCL, 0600, 1) == SEM_FAILED)
		fail("sem_open", errno);
}

static void named_work(void)
{
	static sem_t *sem;

	if (!sem)
		sem = sem_open(NAMED, 0);
	if (sem == SEM_FAILED)
		fail("sem_open", errno);
	E(sem_wait(sem));
	add_one();
	E(sem_post(sem));
}

static void atomic_work(void)
{
	atomic_fetch_add((_Atomic uint64_t *)&shared->counter, 1);
}

static void nothing(void)
{
}

static const struct object {
	const char *name;
	void (*init)(void);
	void (*work)(void);
} objects[] = {
	{ "none", nothing, none_work },
	{ "mutex", mutex_init, mutex_work },
	{ "pi", pi_init, mutex_work },
	{ "robust", robust_init, mutex_work },
	{ "robust-hold", nothing, robust_hold },
	{ "robust-inherit", nothing, robust_inherit },
	{ "cond", cond_init, cond_work },
	{ "barrier", barrier_init, barrier_work },
	{ "rwlock", rwlock_init, rwlock_work },
	{ "sem", sem_init_shared, sem_work },
	{ "named", named_init, named_work },
	{ "atomic", nothing, atomic_work },
};

int main(int argc, char **argv)
{
	const struct object *object = NULL;
	int fd;

	for (size_t i = 0; argc > 2 && i < sizeof(objects) / sizeof(*objects); i++)
		if (!strcmp(argv[1], objects[i].name))
			object = &objects[i];
	if (!object) {
		fprintf(stderr, "usage: %s OBJECT init [N] | OBJECT work ROUNDS\n", argv[0]);
		return 2;
	}

	fd = open("/dev/rust_mmapdev", O_RDWR);
	if (fd < 0)
		fail("open", errno);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (shared == MAP_FAILED)
		fail("mmap", errno);

	if (!strcmp(argv[2], "init")) {
		memset(shared, 0, sizeof(*shared));
		shared->workers = argc > 3 ? strtoull(argv[3], NULL, 0) : 0;
		object->init();
	} else {
		/* All begin together, so that they do get in each other's way. */
		atomic_fetch_add(&shared->started, 1);
		while (atomic_load(&shared->started) < shared->workers)
			sched_yield();
		for (uint64_t i = strtoull(argv[3], NULL, 0); i > 0; i--)
			object->work();
	}
	return 0;
}
