/* SPDX-License-Identifier: GPL-2.0 */
/* Per-CPU variables of virtual CPUs: a thread is on the CPU that it says it is on. */
#ifndef SHIM_PERCPU_H
#define SHIM_PERCPU_H

#include "base.h"

#define SHIM_MAX_CPUS 1024
#define SHIM_PERCPU_STRIDE 64	/* a cache line */

extern unsigned int shim_nr_cpus;
extern __thread unsigned int shim_cpu;
/* Other threads use the same CPU, and may run between any two instructions. */
extern __thread bool shim_cpu_shared;

#define smp_processor_id() shim_cpu
#define num_possible_cpus() shim_nr_cpus
#define num_online_cpus() ((int)shim_nr_cpus)
#define preempt_disable() do { } while (0)
#define preempt_enable() do { } while (0)
#define for_each_possible_cpu(cpu) for ((cpu) = 0; (cpu) < (int)shim_nr_cpus; (cpu)++)
#define for_each_cpu_or(cpu, a, b) for_each_possible_cpu(cpu)

enum { CPUHP_AP_ONLINE_DYN, CPUHP_PERCPU_CNT_DEAD };
#define cpuhp_setup_state(state, name, up, down) ((void)(up), 0)
#define cpuhp_setup_state_nocalls(state, name, up, down) ((void)(down), 0)

static inline void *__alloc_percpu_gfp(size_t size, size_t align, gfp_t gfp)
{
	(void)align; (void)gfp;
	return size > SHIM_PERCPU_STRIDE ? NULL : shim_zalloc((size_t)SHIM_PERCPU_STRIDE * shim_nr_cpus);
}
#define free_percpu(p) free(p)

#define per_cpu_ptr(p, cpu) ((typeof(p))((char *)(p) + (size_t)(cpu) * SHIM_PERCPU_STRIDE))
#define shim_this_cpu(x) per_cpu_ptr(&(x), shim_cpu)
#define this_cpu_read(x) READ_ONCE(*shim_this_cpu(x))
#define __this_cpu_read(x) this_cpu_read(x)
/*
 * Where a CPU is one thread's own, these are a load and a store, without the barrier that a locked instruction is: the kernel's have
 * none either.
 */
#define this_cpu_add(x, n) ({							\
	typeof(x) *_p = shim_this_cpu(x);					\
	if (shim_cpu_shared)							\
		__atomic_fetch_add(_p, (typeof(x))(n), __ATOMIC_RELAXED);	\
	else									\
		WRITE_ONCE(*_p, READ_ONCE(*_p) + (typeof(x))(n));		\
})
#define __this_cpu_sub(x, n) this_cpu_add(x, -(n))
#define this_cpu_try_cmpxchg(x, oldp, new) ({					\
	typeof(x) *_p = shim_this_cpu(x);					\
	typeof(x) _old = (typeof(x))*(oldp);					\
	bool _ok = true;							\
	if (shim_cpu_shared)							\
		_ok = __atomic_compare_exchange_n(_p, &_old, (typeof(x))(new),	\
			false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);		\
	else									\
		WRITE_ONCE(*_p, (typeof(x))(new));				\
	if (!_ok)								\
		*(oldp) = _old;							\
	_ok;									\
})

#endif
