/* SPDX-License-Identifier: GPL-2.0 */
/* A pool that only counts its slots, and maps as swiotlb_tbl_map_single() calls the throttle. */
#ifndef POOL_H
#define POOL_H

#include "swiotlb_throttle.h"

extern struct io_tlb_mem pool_mem;
extern struct device pool_devs[SHIM_DEVICES];
/* The one that this thread maps and unmaps for: the first one if it does not say otherwise. */
#define pool_dev pool_devs[current->device]
#define pool_throttle (pool_mem.throttle)

/*
 * Slots really taken; those of serialized requests; those of others that were admitted, the largest sum of them. The last two are kept
 * only if all users may block.
 */
extern long pool_used, pool_serial, pool_admitted, pool_admitted_peak;
extern bool pool_strict;
/* How often of 256 a search finds no room in a pool that is at least half full. */
extern unsigned int pool_scattered;

void pool_make(unsigned long nslabs, unsigned int cpus);
void pool_drop(void);
/* What a device holds of its share. */
long pool_held(unsigned int device);
/* Returns false if there is no room; then @slot is not set. */
bool pool_map(unsigned int slots, unsigned long attrs, unsigned char *slot);
void pool_unmap(unsigned int slots, unsigned char slot);

/* The same for the pieces of a list, as dma_direct_map_sg() does it. */
bool pool_map_list(struct scatterlist *sgl, int nents, unsigned long attrs, unsigned char *slot);

static inline u64 pool_random(u64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}
extern __thread u64 pool_seed;

/* Counts of all threads, added up by each at its end. */
extern struct shim_counts pool_counts;
void pool_add_counts(void);
/* Fails the run after so many seconds instead of hanging; what stands still is shown. */
void pool_watch(unsigned int seconds, u64 seed);
void pool_threads(unsigned int n, void *(*fn)(void *));

#endif
