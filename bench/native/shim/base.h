/* SPDX-License-Identifier: GPL-2.0 */
/* Types, macros and memory order of the kernel, in user space. Every header that the kernel's files include is this shim. */
#ifndef SHIM_BASE_H
#define SHIM_BASE_H

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;
typedef u64 phys_addr_t;
typedef unsigned int gfp_t;

#define CONFIG_SMP 1
#define CONFIG_SWIOTLB_THROTTLE 1
#define CONFIG_HAVE_CMPXCHG_LOCAL 1	/* as x86 and arm64 */
/* For swiotlb_throttle_detach(). */
#define CONFIG_SWIOTLB_THROTTLE_KUNIT_TEST 1
#define IS_ENABLED(option) (option)

#define S32_MAX INT32_MAX
#define GFP_KERNEL 0
#define BIT(n) (1UL << (n))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define noinline __attribute__((__noinline__))
#define BUILD_BUG_ON(condition) do { if (condition) __builtin_trap(); } while (0)
#undef __always_inline
#define __always_inline inline __attribute__((__always_inline__))
#undef abs
#define abs(x) __builtin_llabs(x)
#define min(a, b) ({ __auto_type _a = (a); __auto_type _b = (b); _a < _b ? _a : _b; })
#define max(a, b) ({ __auto_type _a = (a); __auto_type _b = (b); _a > _b ? _a : _b; })
#define min3(a, b, c) min(min(a, b), c)
#define clamp(v, lo, hi) min(max(v, lo), hi)
#define clamp_t(type, v, lo, hi) min((type)max((type)(v), (type)(lo)), (type)(hi))
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define mult_frac(x, n, d) ({ __auto_type _x = (x); _x / (d) * (n) + _x % (d) * (n) / (d); })
#define ALIGN(x, a) (((x) + (a) - 1) / (a) * (a))
#define ilog2(n) (63 - __builtin_clzl(n))
#define trace_swiotlb_throttle_begin(dev, slots, waiting) ((void)(dev))
#define trace_swiotlb_throttle_end(dev, slots, since, outcome) ((void)(outcome))
/* As in linux/hash.h. */
#define hash_ptr(p, bits) ((u32)((u64)(p) * 0x61C8864680B583EBull >> (64 - (bits))))
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

#define __init
#define __initdata
#define __ref
#define __percpu
#define __read_mostly
#define __must_check
#define __context_unsafe(comment)
#define __maybe_unused __attribute__((unused))
#define ____cacheline_aligned_in_smp __attribute__((aligned(64)))
#define EXPORT_SYMBOL(x)
#define EXPORT_SYMBOL_IF_KUNIT(x)
#define module_init(fn) static void *shim_init_##fn __maybe_unused = (void *)fn
#define core_initcall(fn) module_init(fn)
#define LIST_POISON1 ((void *)0x100)
#define LIST_POISON2 ((void *)0x122)

struct list_head { struct list_head *next, *prev; };
struct hlist_node { struct hlist_node *next, **pprev; };
struct hlist_head { struct hlist_node *first; };

/*
 * Marked accesses are relaxed atomics, so that ThreadSanitizer tells them from plain ones. They order nothing for it, as they
 * order nothing in the kernel.
 */
#define READ_ONCE(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)
#define smp_load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define smp_store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define data_race(x) (x)
/*
 * The instruction is there, but ThreadSanitizer takes no fence into account: plain data handed over by fences alone would be reported.
 * That is what we want. A read-modify-write of one shared word instead would put all who pass a barrier in order, and hide
 * races of what they did before.
 */
#define smp_mb() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define smp_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)

typedef struct { long counter; } atomic_long_t;
#define atomic_long_read(v) READ_ONCE((v)->counter)
#define atomic_long_set(v, n) WRITE_ONCE((v)->counter, (long)(n))
#define atomic_long_add(n, v) ((void)__atomic_add_fetch(&(v)->counter, (long)(n), __ATOMIC_RELAXED))
#define atomic_long_sub(n, v) atomic_long_add(-(long)(n), v)
#define atomic_long_sub_return(n, v) atomic_long_add_return(-(long)(n), v)
#define atomic_long_add_return(n, v) __atomic_add_fetch(&(v)->counter, (long)(n), __ATOMIC_SEQ_CST)

#define pr_warn(fmt, ...) fprintf(stderr, fmt, ##__VA_ARGS__)
void shim_splat(const char *file, int line, const char *what);
#define WARN_ON(x) WARN_ON_ONCE(x)
#define WARN_ON_ONCE(x) ({ bool _w = (x); if (_w) shim_splat(__FILE__, __LINE__, #x); _w; })

#define kzalloc_obj(obj) shim_zalloc(sizeof(obj))
#define kfree(p) free(p)
static inline void *shim_zalloc(size_t size)
{
	void *p = aligned_alloc(64, ALIGN(size, 64));

	return p ? memset(p, 0, size) : NULL;
}
static inline bool slab_is_available(void) { return true; }

/* A static key is a bool that is set before the threads start. */
struct static_key_false { bool on; };
#define DEFINE_STATIC_KEY_FALSE(key) struct static_key_false key
#define DECLARE_STATIC_KEY_FALSE(key) extern struct static_key_false key
#define static_branch_unlikely(key) unlikely(READ_ONCE((key)->on))
#define static_branch_enable(key) WRITE_ONCE((key)->on, true)

#endif
