/*
 * Reads whose protection information lies across two pages that are neighbours in memory, too: one segment made of two
 * vectors. usage: pi_pages DISK OFFSET_MIB; prints how many reads there were, and how many came with other tuples than
 * those that had been written.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <linux/io_uring.h>

#define PAGE	4096u
#define PAGES	1024u
#define BLOCK	512u
#define BLOCKS	32u
#define ROUNDS	2

struct tuple {
	uint16_t guard;
	uint16_t app;
	uint32_t ref;
} __attribute__((packed));

#define PI_LEN	(BLOCKS * sizeof(struct tuple))

static int ring, disk;
static char *sq, *cq;
static struct io_uring_sqe *sqes;
static struct io_uring_params params;
static void *data;
static off_t offset;

static void setup(void)
{
	size_t len;

	ring = syscall(SYS_io_uring_setup, 4, &params);
	if (ring < 0)
		err(1, "io_uring_setup");
	len = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
	sq = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	len = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	cq = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
	sqes = mmap(NULL, params.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		    IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED)
		err(1, "mmap of the ring");
}

/* One request, and its end is awaited. */
static void transfer(int opcode, void *pi)
{
	struct io_uring_attr_pi attr = {
		.len = PI_LEN,
		.addr = (uintptr_t)pi,
		.seed = offset / BLOCK,
	};
	uint32_t *tail = (void *)(sq + params.sq_off.tail), *head = (void *)(cq + params.cq_off.head);
	uint32_t mask = *(uint32_t *)(sq + params.sq_off.ring_mask), i = *tail & mask;
	struct io_uring_cqe *cqes = (void *)(cq + params.cq_off.cqes);
	int res;

	memset(&sqes[i], 0, sizeof(sqes[i]));
	sqes[i].opcode = opcode;
	sqes[i].fd = disk;
	sqes[i].off = offset;
	sqes[i].addr = (uintptr_t)data;
	sqes[i].len = BLOCKS * BLOCK;
	sqes[i].attr_ptr = (uintptr_t)&attr;
	sqes[i].attr_type_mask = IORING_RW_ATTR_FLAG_PI;
	((uint32_t *)(sq + params.sq_off.array))[i] = i;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		err(1, "io_uring_enter");
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	res = cqes[*head & *(uint32_t *)(cq + params.cq_off.ring_mask)].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	if (res != BLOCKS * BLOCK)
		errx(1, "%s: %s", opcode == IORING_OP_READ ? "read" : "write", res < 0 ? strerror(-res) : "too short");
}

struct page {
	uint64_t frame;
	char *addr;
};

static int by_frame(const void *a, const void *b)
{
	const struct page *x = a, *y = b;

	return x->frame < y->frame ? -1 : x->frame > y->frame;
}

/* Pages of one folio would be one vector. */
static void *small_pages(size_t len)
{
	char *area = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		err(1, "no memory");
	madvise(area, len, MADV_NOHUGEPAGE);
	return area;
}

static void move(char *from, char *to)
{
	if (mremap(from, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
		err(1, "mremap");
}

/* Neighbours in memory become neighbours in the address space. Returns the number of such pairs, side by side. */
static unsigned int pair_up(char *pages, char *pairs)
{
	static uint64_t frames[PAGES];
	static struct page page[PAGES];
	int map = open("/proc/self/pagemap", O_RDONLY);
	unsigned int i, n = 0;

	for (i = 0; i < PAGES; i++)
		pages[i * PAGE] = 1;
	if (map < 0 || pread(map, frames, sizeof(frames), (uintptr_t)pages / PAGE * 8) != sizeof(frames))
		err(1, "/proc/self/pagemap");
	for (i = 0; i < PAGES; i++)
		page[i] = (struct page){ .frame = frames[i] & ((1ull << 55) - 1), .addr = pages + i * PAGE };
	qsort(page, PAGES, sizeof(*page), by_frame);
	for (i = 1; i < PAGES; i++) {
		if (page[i].frame != page[i - 1].frame + 1)
			continue;
		move(page[i - 1].addr, pairs + 2 * n * PAGE);
		move(page[i].addr, pairs + (2 * n + 1) * PAGE);
		n++;
		i++;
	}
	return n;
}

int main(int argc, char **argv)
{
	unsigned int i, round, pairs, reads = 0, wrong = 0;
	struct tuple *written;
	char *area, *pi;

	if (argc != 3)
		errx(2, "usage: pi_pages DISK OFFSET_MIB");
	disk = open(argv[1], O_RDWR | O_DIRECT);
	if (disk < 0)
		err(1, "%s", argv[1]);
	offset = (off_t)atoi(argv[2]) << 20;
	setup();
	data = aligned_alloc(PAGE, BLOCKS * BLOCK);
	written = aligned_alloc(PAGE, PAGE);
	if (!data || !written)
		err(1, "no memory");
	area = small_pages(PAGES * PAGE);
	pairs = pair_up(small_pages(PAGES * PAGE), area);

	/* The guard of a block of zeroes is 0. */
	memset(data, 0, BLOCKS * BLOCK);
	for (i = 0; i < BLOCKS; i++)
		written[i] = (struct tuple){ .app = htons(0x1200 + i), .ref = htonl(offset / BLOCK + i) };
	transfer(IORING_OP_WRITE, written);

	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < pairs; i++) {
			pi = area + (2 * i + 1) * PAGE - PI_LEN / 2;
			memset(pi, 0xee, PI_LEN);
			transfer(IORING_OP_READ, pi);
			reads++;
			wrong += !!memcmp(pi, written, PI_LEN);
		}
	}
	printf("%u %u\n", reads, wrong);
	return 0;
}
