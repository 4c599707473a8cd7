// SPDX-License-Identifier: GPL-2.0
/*
 * One of several processes that share a record of three letters and a counter
 * in a mapping of the device, with one of the remedies against write conflicts
 * or with none. tests/device/sharing/writers.rs has the part in Rust that needs
 * no libc.
 *
 *   writers REMEDY init N       prepares the remedy for N processes
 *   writers REMEDY work ROUNDS  begins when N of them are there
 *   writers REMEDY              obeys orders of eight bytes each, and answers
 *                               each with eight bytes; stdin is a socket for both
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

static struct shared {
	union {
		volatile char record[3];
		_Atomic uint64_t word;	/* the record, for a single store */
	};
	volatile uint64_t counter;
	_Alignas(64) pthread_mutex_t mutex;
	_Alignas(64) pthread_cond_t cond;
	_Alignas(64) pthread_rwlock_t rwlock;
	_Alignas(64) pthread_barrier_t barrier;
	_Alignas(64) sem_t sem;
	_Alignas(64) volatile int spin;
	volatile int busy;
	int processes;
	_Atomic int started;
} *shared;

/* As in the Rust half. */
_Static_assert(offsetof(struct shared, counter) == 8, "layout");
_Static_assert(offsetof(struct shared, mutex) == 64, "layout");
_Static_assert(offsetof(struct shared, cond) == 128, "layout");
_Static_assert(offsetof(struct shared, rwlock) == 192, "layout");
_Static_assert(offsetof(struct shared, barrier) == 256, "layout");
_Static_assert(offsetof(struct shared, sem) == 320, "layout");
_Static_assert(offsetof(struct shared, spin) == 384, "layout");
_Static_assert(offsetof(struct shared, busy) == 388, "layout");

#define NAME "/writers"

static int fd;
static sem_t *named;
static int me;

static void fail(const char *what, int err)
{
	fprintf(stderr, "%s: %s\n", what, strerror(err));
	exit(1);
}

/* pthread functions return the error ... */
#define P(call) do { int e = (call); if (e) fail(#call, e); } while (0)
/* ... the others set errno. */
#define E(call) do { if ((call) < 0) fail(#call, errno); } while (0)

static int error_of(int result)
{
	return result < 0 ? errno : 0;
}

/*
 * Each `hold` takes the lock, alone or shared with others that only read, and
 * waits for it or not. It returns 0 or the error.
 */
static int flock_hold(bool wait, bool share)
{
	return error_of(flock(fd, (share ? LOCK_SH : LOCK_EX) | (wait ? 0 : LOCK_NB)));
}

static void flock_let_go(void)
{
	E(flock(fd, LOCK_UN));
}

static int range_lock(int command, int type)
{
	struct flock range = { .l_type = type, .l_whence = SEEK_SET, .l_len = 16 };

	return error_of(fcntl(fd, command, &range));
}

static int fcntl_hold(bool wait, bool share)
{
	return range_lock(wait ? F_SETLKW : F_SETLK, share ? F_RDLCK : F_WRLCK);
}

static void fcntl_let_go(void)
{
	P(range_lock(F_SETLK, F_UNLCK));
}

static int ofd_hold(bool wait, bool share)
{
	return range_lock(wait ? F_OFD_SETLKW : F_OFD_SETLK, share ? F_RDLCK : F_WRLCK);
}

static void ofd_let_go(void)
{
	P(range_lock(F_OFD_SETLK, F_UNLCK));
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

static int mutex_hold(bool wait, bool share)
{
	int err = wait ? pthread_mutex_lock(&shared->mutex)
		       : pthread_mutex_trylock(&shared->mutex);

	(void)share;
	/* The caller is told, and finds the record as the dead owner left it. */
	if (err == EOWNERDEAD)
		P(pthread_mutex_consistent(&shared->mutex));
	return err;
}

static void mutex_let_go(void)
{
	P(pthread_mutex_unlock(&shared->mutex));
}

static void cond_init(void)
{
	pthread_condattr_t attr;

	mutex_init();
	P(pthread_condattr_init(&attr));
	P(pthread_condattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
	P(pthread_cond_init(&shared->cond, &attr));
}

/* The mutex is held for a moment only: who is busy with the record is a flag. */
static int cond_hold(bool wait, bool share)
{
	int err = 0;

	(void)share;
	P(pthread_mutex_lock(&shared->mutex));
	while (wait && shared->busy)
		P(pthread_cond_wait(&shared->cond, &shared->mutex));
	if (shared->busy)
		err = EBUSY;
	shared->busy = 1;
	P(pthread_mutex_unlock(&shared->mutex));
	return err;
}

static void cond_let_go(void)
{
	P(pthread_mutex_lock(&shared->mutex));
	shared->busy = 0;
	P(pthread_cond_signal(&shared->cond));
	P(pthread_mutex_unlock(&shared->mutex));
}

static void rwlock_init(void)
{
	pthread_rwlockattr_t attr;

	P(pthread_rwlockattr_init(&attr));
	P(pthread_rwlockattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
	P(pthread_rwlock_init(&shared->rwlock, &attr));
}

static int rwlock_hold(bool wait, bool share)
{
	if (share)
		return wait ? pthread_rwlock_rdlock(&shared->rwlock)
			    : pthread_rwlock_tryrdlock(&shared->rwlock);
	return wait ? pthread_rwlock_wrlock(&shared->rwlock)
		    : pthread_rwlock_trywrlock(&shared->rwlock);
}

static void rwlock_let_go(void)
{
	P(pthread_rwlock_unlock(&shared->rwlock));
}

static void barrier_init(void)
{
	pthread_barrierattr_t attr;

	P(pthread_barrierattr_init(&attr));
	P(pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
	P(pthread_barrier_init(&shared->barrier, &attr, shared->processes));
}

static void pass_barriers(int count)
{
	while (count-- > 0) {
		int err = pthread_barrier_wait(&shared->barrier);

		if (err && err != PTHREAD_BARRIER_SERIAL_THREAD)
			fail("pthread_barrier_wait", err);
	}
}

/* A round has a phase for each process; all pass from one to the next together. */
static int barrier_hold(bool wait, bool share)
{
	(void)wait;
	(void)share;
	pass_barriers(me);
	return 0;
}

static void barrier_let_go(void)
{
	pass_barriers(shared->processes - me);
}

static void sem_init_shared(void)
{
	E(sem_init(&shared->sem, 1, 1));
}

static int hold_semaphore(sem_t *sem, bool wait)
{
	return error_of(wait ? sem_wait(sem) : sem_trywait(sem));
}

static int sem_hold(bool wait, bool share)
{
	(void)share;
	return hold_semaphore(&shared->sem, wait);
}

static void sem_let_go(void)
{
	E(sem_post(&shared->sem));
}

static void named_init(void)
{
	sem_unlink(NAME);
	if (sem_open(NAME, O_CREAT | O_EXCL, 0600, 1) == SEM_FAILED)
		fail("sem_open", errno);
}

static int named_hold(bool wait, bool share)
{
	(void)share;
	if (!named)
		named = sem_open(NAME, 0);
	if (named == SEM_FAILED)
		fail("sem_open", errno);
	return hold_semaphore(named, wait);
}

static void named_let_go(void)
{
	E(sem_post(named));
}

static int sync_hold(bool wait, bool share)
{
	(void)share;
	while (__sync_lock_test_and_set(&shared->spin, 1)) {
		if (!wait)
			return EBUSY;
		sched_yield();
	}
	return 0;
}

static void sync_let_go(void)
{
	__sync_lock_release(&shared->spin);
}

static int none_hold(bool wait, bool share)
{
	(void)wait;
	(void)share;
	return 0;
}

static void nothing(void)
{
}

static const struct remedy {
	const char *name;
	void (*init)(void);
	int (*hold)(bool wait, bool share);	/* none: single atomic accesses */
	void (*let_go)(void);
} remedies[] = {
	{ "none", nothing, none_hold, nothing },
	{ "flock", nothing, flock_hold, flock_let_go },
	{ "fcntl", nothing, fcntl_hold, fcntl_let_go },
	{ "ofd", nothing, ofd_hold, ofd_let_go },
	{ "mutex", mutex_init, mutex_hold, mutex_let_go },
	{ "pi", pi_init, mutex_hold, mutex_let_go },
	{ "robust", robust_init, mutex_hold, mutex_let_go },
	{ "cond", cond_init, cond_hold, cond_let_go },
	{ "rwlock", rwlock_init, rwlock_hold, rwlock_let_go },
	{ "barrier", barrier_init, barrier_hold, barrier_let_go },
	{ "sem", sem_init_shared, sem_hold, sem_let_go },
	{ "named", named_init, named_hold, named_let_go },
	{ "sync", nothing, sync_hold, sync_let_go },
	{ "atomic", nothing, NULL, NULL },
}, *remedy;

/* Whether a record of one letter only is there, in other words a whole one. */
static bool is_whole(void)
{
	if (!remedy->hold) {
		uint64_t word = atomic_load(&shared->word);

		return word % 0x010101 == 0;
	}
	return shared->record[0] == shared->record[1] && shared->record[1] == shared->record[2];
}

/* The others get a chance in the middle of everything. */
static void write_once(char letter)
{
	uint64_t value = shared->counter;

	if (!remedy->hold) {
		atomic_fetch_add((_Atomic uint64_t *)&shared->counter, 1);
		atomic_store(&shared->word, (uint64_t)letter * 0x010101);
		return;
	}
	for (int i = 0; i < 3; i++) {
		shared->record[i] = letter;
		sched_yield();
	}
	shared->counter = value + 1;
}

/* Returns how often the record was not whole. */
static uint64_t rounds(char letter, uint64_t count, bool only_read)
{
	uint64_t broken = 0;

	while (count-- > 0) {
		if (remedy->hold)
			P(remedy->hold(true, only_read));
		broken += !is_whole();
		if (!only_read)
			write_once(letter);
		if (remedy->hold)
			remedy->let_go();
	}
	return broken;
}

static uint64_t obey(const unsigned char order[8])
{
	static uint64_t remembered;
	char letter = order[1];
	uint64_t number = order[2] | order[3] << 8;

	switch (order[0]) {
	case 'p':
		shared->record[number] = letter;
		return 0;
	case 'g':
		return shared->record[number];
	case 'l':
		return remembered = shared->counter;
	case 's':
		shared->counter = remembered + 1;
		return 0;
	case 't':
		return remedy->hold(false, number);
	case 'h':
		return remedy->hold(true, number);
	case 'u':
		remedy->let_go();
		return 0;
	case 'w':
	case 'r':
		me = letter - 'A';
		return rounds(letter, number, order[0] == 'r');
	}
	fail("an order", EINVAL);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned char order[8];

	for (size_t i = 0; argc > 1 && i < sizeof(remedies) / sizeof(*remedies); i++)
		if (!strcmp(argv[1], remedies[i].name))
			remedy = &remedies[i];
	if (!remedy) {
		fprintf(stderr, "usage: %s REMEDY [init N | work ROUNDS]\n", argv[0]);
		return 2;
	}

	fd = open("/dev/rust_mmapdev", O_RDWR);
	if (fd < 0)
		fail("open", errno);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (shared == MAP_FAILED)
		fail("mmap", errno);

	if (argc > 3 && !strcmp(argv[2], "init")) {
		memset(shared, 0, sizeof(*shared));
		shared->processes = atoi(argv[3]);
		remedy->init();
		return 0;
	}
	if (argc > 3) {
		/* All at once, so that they do get in each other's way. */
		atomic_fetch_add(&shared->started, 1);
		while (atomic_load(&shared->started) < shared->processes)
			sched_yield();
		rounds('A', strtoull(argv[3], NULL, 0), false);
		return 0;
	}
	while (read(0, order, sizeof(order)) == sizeof(order)) {
		uint64_t answer = obey(order);

		if (write(0, &answer, sizeof(answer)) != sizeof(answer))
			fail("write", errno);
	}
	return 0;
}
