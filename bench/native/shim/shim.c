// SPDX-License-Identifier: GPL-2.0
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kernel.h"

/* <linux/futex.h> would be found among the shims. */
#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129

__thread struct shim_counts shim_counts;
__thread struct task_struct shim_task;
__thread unsigned int shim_cpu;
__thread bool shim_cpu_shared;
unsigned int shim_nr_cpus = 16;
long shim_speed = 1, shim_slow = 1;
unsigned long shim_joins, shim_admissions, shim_out_of_order;
static unsigned long shim_last_joined[SHIM_DEVICES];

void shim_splat(const char *file, int line, const char *what)
{
	fprintf(stderr, "splat: %s:%d: %s\n", file, line, what);
	abort();
}

void shim_lock_init(struct shim_lock *lock, enum shim_lock_kind kind)
{
	pthread_mutex_init(&lock->mutex, NULL);
	lock->owner = NULL;
	lock->kind = kind;
}

void shim_lock(struct shim_lock *lock)
{
	if (pthread_mutex_trylock(&lock->mutex)) {
		shim_counts.contended++;
		pthread_mutex_lock(&lock->mutex);
	}
	WRITE_ONCE(lock->owner, current);
	if (lock->kind == SHIM_SPIN)
		shim_counts.locks++;
	else if (lock->kind == SHIM_RAW)
		shim_counts.counter_locks++;
}

void shim_unlock(struct shim_lock *lock)
{
	WRITE_ONCE(lock->owner, NULL);
	pthread_mutex_unlock(&lock->mutex);
}

void shim_assert_held(struct shim_lock *lock, const char *file, int line)
{
	if (READ_ONCE(lock->owner) != current)
		shim_splat(file, line, "lock is not held");
}

/* Wrapped by the linker, to count them. */
struct percpu_counter;
void __real_percpu_counter_add_batch(struct percpu_counter *fbc, s64 amount, s32 batch);
void __wrap_percpu_counter_add_batch(struct percpu_counter *fbc, s64 amount, s32 batch)
{
	shim_counts.adds++;
	__real_percpu_counter_add_batch(fbc, amount, batch);
}

s64 __real___percpu_counter_sum(struct percpu_counter *fbc);
s64 __wrap___percpu_counter_sum(struct percpu_counter *fbc)
{
	shim_counts.sums++;
	return __real___percpu_counter_sum(fbc);
}

ktime_t ktime_get(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (ts.tv_sec * 1000000000LL + ts.tv_nsec) * shim_speed / shim_slow;
}

/* It starts a second before it wraps, so that signs matter. */
unsigned long shim_jiffies(void)
{
	static s64 start;
	s64 first = READ_ONCE(start), now = ktime_get();

	if (!first) {
		s64 none = 0;

		/* Not of two threads: the later one takes the other's. */
		if (__atomic_compare_exchange_n(&start, &none, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			none = now;
		first = none;
	}
	return -1UL * HZ + (now - first) / (1000000000 / HZ);
}

int wake_up_process(struct task_struct *task)
{
	int asleep = TASK_UNINTERRUPTIBLE;

	smp_mb();
	if (!__atomic_compare_exchange_n(&task->state, &asleep, TASK_RUNNING, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return 0;
	shim_counts.wakeups++;
	syscall(SYS_futex, &task->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	return 1;
}

long io_schedule_timeout(long timeout)
{
	unsigned long end = jiffies + timeout;
	struct timespec ts, *tsp = NULL;
	s64 ns;

	while (__atomic_load_n(&current->state, __ATOMIC_ACQUIRE) == TASK_UNINTERRUPTIBLE) {
		if (timeout != MAX_SCHEDULE_TIMEOUT) {
			long left = end - jiffies;

			if (left <= 0)
				break;
			ns = left * (1000000000LL / HZ) * shim_slow / shim_speed + 1;
			ts = (struct timespec){ ns / 1000000000, ns % 1000000000 };
			tsp = &ts;
		}
		syscall(SYS_futex, &current->state, FUTEX_WAIT_PRIVATE, TASK_UNINTERRUPTIBLE, tsp, NULL, 0);
	}
	__set_current_state(TASK_RUNNING);
	shim_counts.sleeps++;
	if (timeout == MAX_SCHEDULE_TIMEOUT)
		return timeout;
	return max((long)(end - jiffies), 0L);
}

/* With a key, @wait has been admitted: the lock of its queue is held. */
int default_wake_function(struct wait_queue_entry *wait, unsigned int mode, int flags, void *key)
{
	struct task_struct *task = wait->private;

	(void)mode; (void)flags;
	if (key) {
		if (!task->joined)
			shim_splat(__FILE__, __LINE__, "admitted, but never joined");
		if (task->joined < shim_last_joined[task->device])
			shim_out_of_order++;
		shim_last_joined[task->device] = task->joined;
		task->slept = task != current;
		task->waited = shim_admissions - task->seen_admitted;
		shim_admissions++;
		shim_counts.admitted++;
		if (task->slept)
			shim_counts.admitted_asleep++;
	}
	return wake_up_process(task);
}

/* By the holder of the lock. */
void shim_join(void)
{
	current->joined = ++shim_joins;
	current->seen_admitted = shim_admissions;
	current->queued = true;
}
