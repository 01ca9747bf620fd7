/* SPDX-License-Identifier: GPL-2.0 */
/* Locks, tasks, wait queues and time. */
#ifndef SHIM_SYNC_H
#define SHIM_SYNC_H

#include <pthread.h>

#include "base.h"
#include <linux/list.h>

/* What this thread did. Folds are the locks of the counter that no sum took. */
struct shim_counts {
	unsigned long adds, counter_locks, sums, locks, contended, wakeups, sleeps, admitted, admitted_asleep;
};
extern __thread struct shim_counts shim_counts;
#define shim_folds(c) ((c)->counter_locks - (c)->sums)

enum shim_lock_kind { SHIM_SPIN, SHIM_RAW, SHIM_MUTEX };
struct shim_lock {
	pthread_mutex_t mutex;
	void *owner;
	enum shim_lock_kind kind;
};
typedef struct shim_lock spinlock_t;
typedef struct shim_lock raw_spinlock_t;
struct lock_class_key { char unused; };

void shim_lock_init(struct shim_lock *lock, enum shim_lock_kind kind);
void shim_lock(struct shim_lock *lock);
void shim_unlock(struct shim_lock *lock);
void shim_assert_held(struct shim_lock *lock, const char *file, int line);

#define raw_spin_lock_init(l) shim_lock_init(l, SHIM_RAW)
#define raw_spin_lock(l) shim_lock(l)
#define raw_spin_unlock(l) shim_unlock(l)
#define raw_spin_lock_irqsave(l, flags) do { (flags) = 0; shim_lock(l); } while (0)
#define raw_spin_unlock_irqrestore(l, flags) do { (void)(flags); shim_unlock(l); } while (0)
#define spin_lock_irqsave(l, flags) raw_spin_lock_irqsave(l, flags)
#define spin_unlock_irqrestore(l, flags) raw_spin_unlock_irqrestore(l, flags)
#define spin_lock_irq(l) shim_lock(l)
#define spin_unlock_irq(l) shim_unlock(l)
#define DEFINE_MUTEX(name) struct shim_lock name = { .mutex = PTHREAD_MUTEX_INITIALIZER, .kind = SHIM_MUTEX }
#define mutex_lock(l) shim_lock(l)
#define mutex_unlock(l) shim_unlock(l)
#define lockdep_assert_held(l) shim_assert_held(l, __FILE__, __LINE__)
#define lockdep_set_class(l, key) ((void)(key))
#define local_irq_save(flags) ((flags) = 0)
#define local_irq_restore(flags) ((void)(flags))

#define TASK_RUNNING 0
#define TASK_UNINTERRUPTIBLE 2
#define TASK_NORMAL 3
#define MAX_SCHEDULE_TIMEOUT LONG_MAX

/* The lock of the queue protects what is below @device. */
struct task_struct {
	int state;
	unsigned int device;	/* the one it maps for, below SHIM_DEVICES */
	unsigned long joined, seen_admitted, waited;	/* numbers of joins and admissions */
	bool queued, slept;
};
extern __thread struct task_struct shim_task;
#define current (&shim_task)
/* As in the kernel, a full barrier follows. */
#define set_current_state(s) do { WRITE_ONCE(current->state, s); smp_mb(); } while (0)
#define __set_current_state(s) WRITE_ONCE(current->state, s)
int wake_up_process(struct task_struct *task);
long io_schedule_timeout(long timeout);

#define HZ 1000
/* Kernel time runs so much faster, or slower, than the clock. Set before the threads start. */
extern long shim_speed, shim_slow;
unsigned long shim_jiffies(void);
#define jiffies shim_jiffies()
#define msecs_to_jiffies(ms) ((long)(ms) * HZ / 1000)
#define time_after_eq(a, b) ((long)((a) - (b)) >= 0)
#define time_before(a, b) (!time_after_eq(a, b))
typedef s64 ktime_t;
ktime_t ktime_get(void);
#define ktime_sub(a, b) ((a) - (b))
#define ktime_to_ns(t) (t)

struct wait_queue_entry;
typedef int (*wait_queue_func_t)(struct wait_queue_entry *, unsigned int mode, int flags, void *key);
struct wait_queue_entry {
	unsigned int flags;
	void *private;
	wait_queue_func_t func;
	struct list_head entry;
};
typedef struct wait_queue_head {
	spinlock_t lock;
	struct list_head head;
} wait_queue_head_t;

int default_wake_function(struct wait_queue_entry *wait, unsigned int mode, int flags, void *key);
static inline void init_waitqueue_head(struct wait_queue_head *wq)
{
	shim_lock_init(&wq->lock, SHIM_SPIN);
	INIT_LIST_HEAD(&wq->head);
}

/* A request joins a queue: the one list whose entries are called so. */
#define list_add_tail(new, head) do {		\
	if (!strcmp(#new, "&w->wait.entry"))	\
		shim_join();			\
	list_add_tail(new, head);		\
} while (0)
void shim_join(void);

/* Order of the requests of each device, seen under the lock: admissions that passed one that had joined before. */
#define SHIM_DEVICES 128
extern unsigned long shim_joins, shim_admissions, shim_out_of_order;

#endif
