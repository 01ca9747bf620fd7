// SPDX-License-Identifier: GPL-2.0
/*
 * A stand-in for hv_vmbus: SCSI controllers for hv_storvsc where there is no
 * Hyper-V. See README.md.
 *
 * It exports what hv_storvsc.ko imports from hv_vmbus.ko, and plays the host.
 * A packet that the driver sends is kept as a struct packet, in the order of
 * the channel's outbound ring, of which only the indices are real. The host
 * takes packets out of the ring, answers each when its timer expires, and the
 * driver finds the answers when its channel callback runs, from a tasklet as
 * with hv_vmbus.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cleanup.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/hrtimer.h>
#include <linux/hyperv.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/reciprocal_div.h>
#include <linux/slab.h>
#include <linux/swiotlb.h>
#include <linux/unaligned.h>
#include <linux/vmalloc.h>
#include <scsi/scsi_proto.h>

#include "storage.h"

static uint controllers = 1;
module_param(controllers, uint, 0444);
MODULE_PARM_DESC(controllers, "SCSI controllers");

static uint disks = 1;
module_param(disks, uint, 0444);
MODULE_PARM_DESC(disks, "disks (LUNs) of each controller");

static uint mib = 64;
module_param(mib, uint, 0444);
MODULE_PARM_DESC(mib, "size of a disk in MiB, kept in memory");

static uint channels = 8;
module_param(channels, uint, 0444);
MODULE_PARM_DESC(channels, "channels of a controller that the host allows for");

static uint max_transfer_kib = 512;
module_param(max_transfer_kib, uint, 0444);
MODULE_PARM_DESC(max_transfer_kib, "largest transfer of a command");

static bool shared;
module_param(shared, bool, 0444);
MODULE_PARM_DESC(shared, "disk N is the same behind each controller");

static bool bounced = true;
module_param(bounced, bool, 0444);
MODULE_PARM_DESC(bounced, "refuse memory that is no bounce buffer");

static uint latency_us = 200;
module_param(latency_us, uint, 0444);
MODULE_PARM_DESC(latency_us, "time that a command takes at first, see debugfs");

#define MAX_DISKS	8
#define MAX_CONTROLLERS	8
#define MAX_CHANNELS	64
#define SECTOR		512
#define PAGE_4K		4096

/* What the next commands that move data are answered with, if not with data. */
enum {
	ERROR_SENSE,		/* medium error, with sense data */
	ERROR_NO_SENSE,		/* aborted, the sense data to be asked for */
	ERROR_PATH,		/* an error of the transport */
	ERROR_NO_LUN,		/* the disk is gone */
};

/* A disk as one controller shows it; @data may be common to several. */
struct disk {
	u8 *data;
	bool present;
	u32 latency_us;
	u32 kib_s;
	u32 silent;
	u32 errors;
	u32 error_kind;
	atomic_t reads;
	atomic_t writes;
	spinlock_t lock;	/* of @next, @silent and @errors */
	ktime_t next;		/* when it has moved the data of all before */
	u8 sense[18];		/* for REQUEST SENSE: the last there was */
};

struct controller {
	struct hv_device hv;
	unsigned int nr;
	struct vchannel *chan[MAX_CHANNELS];
	u32 nr_chan;
	struct disk disk[MAX_DISKS];
	struct dentry *dir;
	struct work_struct offer;	/* of sub-channels */
	unsigned int wanted;
	struct work_struct withdraw;
	bool withdrawn;
	/* The host reads nothing out of the rings. */
	bool stall;
	/* Packets that it works on at a time, of each channel; 0: all. */
	u32 depth;
	atomic_t commands;
	atomic_t outstanding;
	atomic_t refused;
	atomic_t ring_full;
};

struct vchannel {
	struct vmbus_channel vmbus;
	struct controller *ctl;
	bool open;
	spinlock_t lock;		/* of the lists and of the ring's indices */
	struct list_head ring;		/* sent, not read by the host */
	struct list_head silent;	/* read, and never answered */
	struct list_head in;		/* answers */
	u32 busy;			/* read, not answered yet */
};

struct packet {
	struct list_head list;
	struct vchannel *chan;
	struct hrtimer timer;
	u32 ring_bytes;
	u32 len;
	u32 offset;
	u32 npfns;
	struct {
		struct vmpacket_descriptor desc;
		struct vstor vstor;
	} __packed msg;
	u64 pfn[];
};

static struct device *root;
static struct dentry *debugfs;
static struct controller *ctls[MAX_CONTROLLERS];
static u8 *common[MAX_DISKS];

static struct vchannel *to_chan(struct vmbus_channel *channel)
{
	return container_of(channel, struct vchannel, vmbus);
}

/* Memory of the guest. */

static bool frame_allowed(struct controller *ctl, u64 pfn)
{
	struct io_tlb_mem *mem = ctl->hv.device.dma_io_tlb_mem;
	phys_addr_t phys = pfn * PAGE_4K;

	if (!bounced)
		return pfn_valid(PHYS_PFN(phys));
	return mem && phys >= mem->defpool.start &&
		phys + PAGE_4K <= mem->defpool.end;
}

static bool frames_allowed(struct packet *p)
{
	u32 i;

	for (i = 0; i < p->npfns; i++) {
		if (frame_allowed(p->chan->ctl, p->pfn[i]))
			continue;
		atomic_inc(&p->chan->ctl->refused);
		pr_err_ratelimited("frame %llx is no bounce buffer\n",
				   p->pfn[i]);
		return false;
	}
	return true;
}

/* Returns how much was copied: no more than the packet has room for. */
static u32 guest_copy(struct packet *p, void *buf, u32 len, bool to_guest)
{
	u32 done, part, at = p->offset;
	u8 *guest;

	len = min(len, p->len);
	for (done = 0; done < len; done += part, at += part) {
		part = min(len - done, PAGE_4K - at % PAGE_4K);
		guest = phys_to_virt(p->pfn[at / PAGE_4K] * PAGE_4K +
				     at % PAGE_4K);
		if (to_guest)
			memcpy(guest, buf + done, part);
		else
			memcpy(buf + done, guest, part);
	}
	return len;
}

/* SCSI commands. */

static void answer(struct packet *p, u8 srb_status, u8 scsi_status, u32 len)
{
	struct srb *srb = &p->msg.vstor.srb;

	srb->srb_status = srb_status;
	srb->scsi_status = scsi_status;
	srb->data_len = cpu_to_le32(len);
}

static void answer_sense(struct packet *p, struct disk *d, u8 key, u8 asc)
{
	struct srb *srb = &p->msg.vstor.srb;
	u8 sense[18] = { [0] = 0x70, [2] = key, [7] = 10, [12] = asc };

	memcpy(d->sense, sense, sizeof(sense));
	memcpy(srb->sense, sense, sizeof(sense));
	srb->sense_len = sizeof(sense);
	answer(p, SRB_ERROR | SRB_SENSE_VALID, SAM_STAT_CHECK_CONDITION, 0);
}

static void answer_data(struct packet *p, void *buf, u32 len)
{
	answer(p, SRB_OK, SAM_STAT_GOOD, guest_copy(p, buf, len, true));
}

static void inquiry(struct packet *p, struct disk *d, const u8 *cdb)
{
	static const u8 pages[] = { 0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2 };
	struct controller *ctl = p->chan->ctl;
	unsigned int lun = d - ctl->disk;
	u8 buf[96] = { };
	u32 len = get_unaligned_be16(cdb + 3);

	if (!(cdb[1] & 1)) {
		buf[2] = 5;	/* SPC-3 */
		buf[3] = 2;
		buf[4] = 31;
		buf[7] = 2;	/* command queueing */
		memcpy(buf + 8, "Msft    ", 8);
		snprintf(buf + 16, 17, "fake %-11u", lun);
		if (!shared)
			snprintf(buf + 16, 17, "fake %u:%-9u", ctl->nr, lun);
		memcpy(buf + 32, "1.0 ", 4);
		answer_data(p, buf, min(len, 36));
		return;
	}

	buf[1] = cdb[2];
	switch (cdb[2]) {
	case 0x00:
		memcpy(buf + 4, pages, sizeof(pages));
		buf[3] = sizeof(pages);
		break;
	case 0x80:
		buf[3] = snprintf(buf + 4, 16, "fake-%u-%u",
				  shared ? 0 : ctl->nr, lun);
		break;
	case 0x83:	/* one NAA identifier */
		buf[3] = 12;
		buf[4] = 1;
		buf[5] = 3;
		buf[7] = 8;
		put_unaligned_be64(0x5000000000000000ULL +
				   (shared ? 0 : ctl->nr) * 256 + lun, buf + 8);
		break;
	case 0xb0:
		buf[3] = 0x3c;
		put_unaligned_be32(max_transfer_kib * 2, buf + 8);
		put_unaligned_be32(U32_MAX, buf + 20);	/* unmap: blocks, */
		put_unaligned_be32(64, buf + 24);	/* descriptors, */
		put_unaligned_be32(8, buf + 28);	/* granularity */
		break;
	case 0xb1:
		buf[3] = 0x3c;
		put_unaligned_be16(1, buf + 4);		/* does not rotate */
		break;
	case 0xb2:
		buf[3] = 4;
		buf[5] = 0x80 | 0x04;	/* UNMAP, and reads zeroes */
		break;
	default:
		answer_sense(p, d, ILLEGAL_REQUEST, 0x24);
		return;
	}
	answer_data(p, buf, min(len, buf[3] + 4));
}

static void report_luns(struct packet *p, const u8 *cdb)
{
	struct controller *ctl = p->chan->ctl;
	u8 buf[8 + 8 * MAX_DISKS] = { };
	unsigned int i, n = 0;

	/* Only path 0, target 0 has any. */
	if (!p->msg.vstor.srb.path && !p->msg.vstor.srb.target) {
		for (i = 0; i < disks; i++)
			if (READ_ONCE(ctl->disk[i].present))
				buf[8 + 8 * n++ + 1] = i;
	}
	put_unaligned_be32(8 * n, buf);
	answer_data(p, buf, min(get_unaligned_be32(cdb + 6), 8 + 8 * n));
}

static void mode_sense(struct packet *p, struct disk *d, const u8 *cdb)
{
	unsigned int head = cdb[0] == MODE_SENSE ? 4 : 8, len = head;
	u8 buf[8 + 20] = { };

	if ((cdb[2] & 0x3f) == 0x08 || (cdb[2] & 0x3f) == 0x3f) {
		buf[len] = 0x08;	/* caching: */
		buf[len + 1] = 18;
		buf[len + 2] = 0x04;	/* written back */
		len += 20;
	}
	if (head == 4)
		buf[0] = len - 1;
	else
		put_unaligned_be16(len - 2, buf);
	answer_data(p, buf, min(len, head == 4 ? cdb[4] :
				get_unaligned_be16(cdb + 7)));
}

static u64 capacity(void)
{
	return (u64)mib << 11;
}

static void read_capacity(struct packet *p, const u8 *cdb)
{
	u8 buf[32] = { };

	if (cdb[0] == READ_CAPACITY) {
		put_unaligned_be32(min(capacity() - 1, (u64)U32_MAX), buf);
		put_unaligned_be32(SECTOR, buf + 4);
		answer_data(p, buf, 8);
		return;
	}
	put_unaligned_be64(capacity() - 1, buf);
	put_unaligned_be32(SECTOR, buf + 8);
	buf[14] = 0x80 | 0x40;	/* provisioned thinly, unmapped is zero */
	answer_data(p, buf, min(get_unaligned_be32(cdb + 10), 32));
}

static void unmap(struct packet *p, struct disk *d)
{
	u8 buf[8 + 64 * 16];
	u32 len = guest_copy(p, buf, sizeof(buf), false), end, at, n;
	u64 lba;

	end = len < 8 ? 0 : min(len, get_unaligned_be16(buf + 2) + 8);
	for (at = 8; at + 16 <= end; at += 16) {
		lba = get_unaligned_be64(buf + at);
		n = get_unaligned_be32(buf + at + 8);
		if (lba > capacity() || n > capacity() - lba) {
			answer_sense(p, d, ILLEGAL_REQUEST, 0x21);
			return;
		}
		memset(d->data + lba * SECTOR, 0, (u64)n * SECTOR);
	}
	answer(p, SRB_OK, SAM_STAT_GOOD, len);
}

/* Whether a command moves data of the disk, and which. */
static bool is_rw(const u8 *cdb, u64 *lba, u32 *n)
{
	switch (cdb[0]) {
	case READ_10:
	case WRITE_10:
		*lba = get_unaligned_be32(cdb + 2);
		*n = get_unaligned_be16(cdb + 7);
		return true;
	case READ_16:
	case WRITE_16:
		*lba = get_unaligned_be64(cdb + 2);
		*n = get_unaligned_be32(cdb + 10);
		return true;
	}
	return false;
}

static void read_write(struct packet *p, struct disk *d, const u8 *cdb,
		       u64 lba, u32 n)
{
	bool read = cdb[0] == READ_10 || cdb[0] == READ_16;

	if (lba > capacity() || n > capacity() - lba) {
		answer_sense(p, d, ILLEGAL_REQUEST, 0x21);
		return;
	}
	if ((u64)n * SECTOR != p->len) {
		pr_err_ratelimited("a command for %u sectors came with %u bytes\n",
				   n, p->len);
		answer(p, SRB_ERROR, SAM_STAT_GOOD, 0);
		return;
	}
	atomic_inc(read ? &d->reads : &d->writes);
	answer(p, SRB_OK, SAM_STAT_GOOD,
	       guest_copy(p, d->data + lba * SECTOR, n * SECTOR, read));
}

static struct disk *disk_of(struct packet *p)
{
	struct srb *srb = &p->msg.vstor.srb;

	if (srb->path || srb->target || srb->lun >= disks ||
	    !READ_ONCE(p->chan->ctl->disk[srb->lun].present))
		return NULL;
	return &p->chan->ctl->disk[srb->lun];
}

/* One of those commands that are to fail? */
static bool fail(struct packet *p, struct disk *d)
{
	u32 kind;

	scoped_guard(spinlock_irqsave, &d->lock) {
		if (!d->errors)
			return false;
		if (d->errors != U32_MAX)
			d->errors--;
		kind = d->error_kind;
	}

	switch (kind) {
	case ERROR_SENSE:
		answer_sense(p, d, MEDIUM_ERROR, 0x11);
		break;
	case ERROR_NO_SENSE:
		answer_sense(p, d, ABORTED_COMMAND, 0);
		answer(p, SRB_OK, SAM_STAT_CHECK_CONDITION, 0);
		break;
	case ERROR_PATH:
		answer(p, SRB_ERROR, SAM_STAT_GOOD, 0);
		break;
	default:
		answer(p, SRB_INVALID_LUN, SAM_STAT_GOOD, 0);
	}
	return true;
}

static void execute(struct packet *p)
{
	struct disk *d = disk_of(p);
	u8 cdb[16], absent = 0x7f;
	u64 lba;
	u32 n;

	/* The sense data overlays it. */
	memcpy(cdb, p->msg.vstor.srb.cdb, sizeof(cdb));
	atomic_inc(&p->chan->ctl->commands);

	if (!frames_allowed(p)) {
		answer(p, SRB_ERROR, SAM_STAT_GOOD, 0);
		return;
	}
	if (!d) {
		if (cdb[0] == INQUIRY)
			answer_data(p, &absent, 1);
		else if (cdb[0] == REPORT_LUNS)
			report_luns(p, cdb);
		else
			answer(p, SRB_INVALID_LUN, SAM_STAT_GOOD, 0);
		return;
	}
	if (is_rw(cdb, &lba, &n)) {
		if (!fail(p, d))
			read_write(p, d, cdb, lba, n);
		return;
	}

	switch (cdb[0]) {
	case TEST_UNIT_READY:
	case SYNCHRONIZE_CACHE:
	case SYNCHRONIZE_CACHE_16:
		answer(p, SRB_OK, SAM_STAT_GOOD, 0);
		break;
	case REQUEST_SENSE:
		answer_data(p, d->sense, min(cdb[4], sizeof(d->sense)));
		break;
	case INQUIRY:
		inquiry(p, d, cdb);
		break;
	case REPORT_LUNS:
		report_luns(p, cdb);
		break;
	case MODE_SENSE:
	case MODE_SENSE_10:
		mode_sense(p, d, cdb);
		break;
	case READ_CAPACITY:
		read_capacity(p, cdb);
		break;
	case SERVICE_ACTION_IN_16:
		if ((cdb[1] & 0x1f) == SAI_READ_CAPACITY_16)
			read_capacity(p, cdb);
		else
			answer_sense(p, d, ILLEGAL_REQUEST, 0x20);
		break;
	case UNMAP:
		unmap(p, d);
		break;
	default:
		answer_sense(p, d, ILLEGAL_REQUEST, 0x20);
	}
}

/* The protocol around them. */

static void negotiate(struct packet *p)
{
	struct controller *ctl = p->chan->ctl;
	struct vstor *v = &p->msg.vstor;
	u16 version;

	v->status = 0;
	switch (le32_to_cpu(v->operation)) {
	case OP_BEGIN_INIT:
	case OP_END_INIT:
	case OP_RESET_BUS:
		break;
	case OP_QUERY_VERSION:
		version = le16_to_cpu(v->version.version);
		if (version != STOR_VERSION_WIN10 && version != STOR_VERSION_WIN8_1)
			v->status = cpu_to_le32(1);
		break;
	case OP_QUERY_PROPERTIES:
		memset(&v->properties, 0, sizeof(v->properties));
		v->properties.max_channels = cpu_to_le16(channels - 1);
		if (channels > 1)
			v->properties.flags =
				cpu_to_le32(PROPERTY_MULTI_CHANNEL);
		v->properties.max_transfer =
			cpu_to_le32(max_transfer_kib * 1024);
		break;
	case OP_SUB_CHANNELS:
		ctl->wanted = le16_to_cpu(v->sub_channels);
		schedule_work(&ctl->offer);
		break;
	default:
		v->status = cpu_to_le32(1);
	}
}

/* The answer is on its way to the guest. */
static void deliver(struct packet *p)
{
	struct vchannel *c = p->chan;

	p->msg.vstor.operation = cpu_to_le32(OP_COMPLETE_IO);
	p->msg.desc.type = VM_PKT_COMP;
	p->msg.desc.offset8 = sizeof(p->msg.desc) / 8;
	p->msg.desc.len8 = sizeof(p->msg) / 8;

	atomic_dec(&c->ctl->outstanding);
	scoped_guard(spinlock_irqsave, &c->lock)
		list_add_tail(&p->list, &c->in);
	tasklet_schedule(&c->vmbus.callback_event);
}

/* Those that would never be answered are, with an error. */
static void flush(struct controller *ctl, u8 srb_status)
{
	struct packet *p, *tmp;
	LIST_HEAD(list);
	unsigned int i;

	for (i = 0; i < ctl->nr_chan; i++) {
		struct vchannel *c = ctl->chan[i];

		scoped_guard(spinlock_irqsave, &c->lock)
			list_splice_tail_init(&c->silent, &list);
	}
	list_for_each_entry_safe(p, tmp, &list, list) {
		answer(p, srb_status, SAM_STAT_GOOD, 0);
		deliver(p);
	}
}

static void host_read(struct vchannel *c);

static enum hrtimer_restart packet_due(struct hrtimer *timer)
{
	struct packet *p = container_of(timer, struct packet, timer);
	struct vchannel *c = p->chan;
	struct controller *ctl = c->ctl;
	u32 op = le32_to_cpu(p->msg.vstor.operation);

	if (op == OP_EXECUTE_SRB)
		execute(p);
	else
		negotiate(p);
	if (op == OP_RESET_BUS)
		flush(ctl, SRB_BUS_RESET);
	scoped_guard(spinlock_irqsave, &c->lock)
		c->busy--;
	deliver(p);
	host_read(c);
	return HRTIMER_NORESTART;
}

/* Returns false if the packet is one that is never answered. */
static bool host_begin(struct packet *p)
{
	ktime_t now = ktime_get(), due = ktime_add_us(now, latency_us);
	struct disk *d;
	u64 lba, us;
	u32 n;

	if (le32_to_cpu(p->msg.vstor.operation) == OP_EXECUTE_SRB) {
		d = disk_of(p);
		if (d && is_rw(p->msg.vstor.srb.cdb, &lba, &n)) {
			guard(spinlock_irqsave)(&d->lock);
			if (d->silent) {
				if (d->silent != U32_MAX)
					d->silent--;
				return false;
			}
			if (ktime_before(d->next, now))
				d->next = now;
			if (d->kib_s) {
				us = (u64)p->len * USEC_PER_SEC / 1024;
				us = div_u64(us, d->kib_s);
				d->next = ktime_add_us(d->next, us);
			}
			due = ktime_add_us(d->next, d->latency_us);
		}
	}
	hrtimer_start(&p->timer, due, HRTIMER_MODE_ABS_SOFT);
	return true;
}

/* The host takes out of the ring what it has capacity for. */
static void host_read(struct vchannel *c)
{
	struct controller *ctl = c->ctl;
	struct hv_ring_buffer *ring;
	struct packet *p;

	for (;;) {
		guard(spinlock_irqsave)(&c->lock);
		p = list_first_entry_or_null(&c->ring, struct packet, list);
		if (!p || !c->open || READ_ONCE(ctl->stall) ||
		    (ctl->depth && c->busy >= ctl->depth))
			return;
		ring = c->vmbus.outbound.ring_buffer;
		WRITE_ONCE(ring->read_index,
			   (ring->read_index + p->ring_bytes) %
			   c->vmbus.outbound.ring_datasize);
		list_del(&p->list);
		c->busy++;
		if (!host_begin(p)) {
			c->busy--;
			list_add_tail(&p->list, &c->silent);
		}
	}
}

/* The guest's side of the rings. */

static int send(struct vmbus_channel *channel, u32 desc_size, const void *buf,
		u32 len, u64 id, u32 flags, const struct hv_mpb_array *range)
{
	struct vchannel *c = to_chan(channel);
	struct hv_ring_buffer *ring = channel->outbound.ring_buffer;
	u32 npfns = range ? HVPFN_UP(range->offset + range->len) : 0;
	struct packet *p;

	if (channel->rescind || !c->open)
		return -ENODEV;
	if (WARN_ON_ONCE(len > sizeof(p->msg.vstor)))
		return -EINVAL;

	p = kzalloc(struct_size(p, pfn, npfns), GFP_ATOMIC);
	if (!p)
		return -EAGAIN;
	p->chan = c;
	hrtimer_setup(&p->timer, packet_due, CLOCK_MONOTONIC,
		      HRTIMER_MODE_ABS_SOFT);
	p->ring_bytes = ALIGN(desc_size + len, 8) + sizeof(u64);
	memcpy(&p->msg.vstor, buf, len);
	if (range) {
		p->len = range->len;
		p->offset = range->offset;
		p->npfns = npfns;
		memcpy(p->pfn, range->pfn_array, npfns * sizeof(u64));
	}

	scoped_guard(spinlock_irqsave, &c->lock) {
		if (hv_get_bytes_to_write(&channel->outbound) <= p->ring_bytes) {
			atomic_inc(&c->ctl->ring_full);
			kfree(p);
			return -EAGAIN;
		}
		if (flags & VMBUS_DATA_PACKET_FLAG_COMPLETION_REQUESTED &&
		    channel->next_request_id_callback)
			id = channel->next_request_id_callback(channel, id);
		p->msg.desc.trans_id = id;
		WRITE_ONCE(ring->write_index,
			   (ring->write_index + p->ring_bytes) %
			   channel->outbound.ring_datasize);
		atomic_inc(&c->ctl->outstanding);
		list_add_tail(&p->list, &c->ring);
	}
	host_read(c);
	return 0;
}

int vmbus_sendpacket(struct vmbus_channel *channel, void *buffer, u32 bufferlen,
		     u64 requestid, enum vmbus_packet_type type, u32 flags)
{
	return send(channel, sizeof(struct vmpacket_descriptor), buffer,
		    bufferlen, requestid, flags, NULL);
}
EXPORT_SYMBOL(vmbus_sendpacket);

int vmbus_sendpacket_mpb_desc(struct vmbus_channel *channel,
			      struct vmbus_packet_mpb_array *desc, u32 desc_size,
			      void *buffer, u32 bufferlen, u64 requestid)
{
	if (WARN_ON_ONCE(desc->rangecount != 1))
		return -EINVAL;
	return send(channel, desc_size, buffer, bufferlen, requestid,
		    VMBUS_DATA_PACKET_FLAG_COMPLETION_REQUESTED, &desc->range);
}
EXPORT_SYMBOL_GPL(vmbus_sendpacket_mpb_desc);

static struct vmpacket_descriptor *first_in(struct vchannel *c)
{
	struct packet *p;

	p = list_first_entry_or_null(&c->in, struct packet, list);
	return p ? &p->msg.desc : NULL;
}

struct vmpacket_descriptor *hv_pkt_iter_first(struct vmbus_channel *channel)
{
	struct vchannel *c = to_chan(channel);

	guard(spinlock_irqsave)(&c->lock);
	return first_in(c);
}
EXPORT_SYMBOL_GPL(hv_pkt_iter_first);

struct vmpacket_descriptor *
__hv_pkt_iter_next(struct vmbus_channel *channel,
		   const struct vmpacket_descriptor *pkt)
{
	struct vchannel *c = to_chan(channel);
	struct packet *p = container_of(pkt, struct packet, msg.desc);

	guard(spinlock_irqsave)(&c->lock);
	list_del(&p->list);
	kfree(p);
	return first_in(c);
}
EXPORT_SYMBOL_GPL(__hv_pkt_iter_next);

/* The packet that was not asked to be passed is still there. */
void hv_pkt_iter_close(struct vmbus_channel *channel)
{
}
EXPORT_SYMBOL_GPL(hv_pkt_iter_close);

static void channel_event(struct tasklet_struct *t)
{
	struct vmbus_channel *channel = from_tasklet(channel, t, callback_event);
	struct vchannel *c = to_chan(channel);

	channel->onchannel_callback(channel->channel_callback_context);
	if (READ_ONCE(c->open) && !list_empty_careful(&c->in))
		tasklet_schedule(t);
}

int vmbus_open(struct vmbus_channel *channel, u32 send_size, u32 recv_size,
	       void *userdata, u32 userdatalen, void (*callback)(void *context),
	       void *context)
{
	struct hv_ring_buffer_info *out = &channel->outbound;
	struct vchannel *c = to_chan(channel);

	if (c->open || c->ctl->withdrawn)
		return -EINVAL;
	if (!out->ring_buffer)
		out->ring_buffer = (void *)get_zeroed_page(GFP_KERNEL);
	if (!out->ring_buffer)
		return -ENOMEM;
	memset(out->ring_buffer, 0, PAGE_SIZE);
	out->ring_size = send_size;
	out->ring_datasize = send_size - sizeof(struct hv_ring_buffer);
	out->ring_size_div10_reciprocal = reciprocal_value(send_size / 10);

	channel->onchannel_callback = callback;
	channel->channel_callback_context = context;
	tasklet_setup(&channel->callback_event, channel_event);
	c->busy = 0;
	WRITE_ONCE(c->open, true);
	channel->state = CHANNEL_OPENED_STATE;
	return 0;
}
EXPORT_SYMBOL_GPL(vmbus_open);

/* What the driver left unanswered is forgotten. */
static void forget(struct vchannel *c)
{
	struct packet *p, *tmp;
	LIST_HEAD(list);

	scoped_guard(spinlock_irqsave, &c->lock) {
		WRITE_ONCE(c->open, false);
		list_splice_tail_init(&c->ring, &list);
		list_splice_tail_init(&c->silent, &list);
	}
	list_for_each_entry(p, &list, list)
		atomic_dec(&c->ctl->outstanding);
	/* Their timers are running. */
	while (READ_ONCE(c->busy))
		fsleep(1000);
	/* And the last of them has returned: softirqs are read sections. */
	synchronize_rcu();
	tasklet_kill(&c->vmbus.callback_event);
	list_splice_tail_init(&c->in, &list);
	list_for_each_entry_safe(p, tmp, &list, list)
		kfree(p);
}

static void close_one(struct vmbus_channel *channel)
{
	struct vchannel *c = to_chan(channel);

	if (!c->open)
		return;
	forget(c);
	channel->onchannel_callback = NULL;
	channel->state = CHANNEL_OPEN_STATE;
}

void vmbus_close(struct vmbus_channel *channel)
{
	struct controller *ctl = to_chan(channel)->ctl;
	struct vmbus_channel *sub, *tmp;

	cancel_work_sync(&ctl->offer);
	list_for_each_entry_safe(sub, tmp, &channel->sc_list, sc_list) {
		close_one(sub);
		list_del_init(&sub->sc_list);
	}
	close_one(channel);
}
EXPORT_SYMBOL_GPL(vmbus_close);

void vmbus_set_sc_create_callback(struct vmbus_channel *primary_channel,
				  void (*sc_cr_cb)(struct vmbus_channel *new_sc))
{
	primary_channel->sc_creation_callback = sc_cr_cb;
}
EXPORT_SYMBOL_GPL(vmbus_set_sc_create_callback);

/* Channels and controllers. */

static struct vchannel *new_channel(struct controller *ctl)
{
	struct vchannel *c;

	if (ctl->nr_chan == ARRAY_SIZE(ctl->chan))
		return NULL;
	c = kzalloc_obj(*c);
	if (!c)
		return NULL;
	c->ctl = ctl;
	spin_lock_init(&c->lock);
	INIT_LIST_HEAD(&c->ring);
	INIT_LIST_HEAD(&c->silent);
	INIT_LIST_HEAD(&c->in);
	INIT_LIST_HEAD(&c->vmbus.sc_list);
	c->vmbus.device_obj = &ctl->hv;
	c->vmbus.state = CHANNEL_OPEN_STATE;
	c->vmbus.target_cpu = cpumask_nth(ctl->nr_chan % num_online_cpus(),
					  cpu_online_mask);
	c->vmbus.offermsg.offer.sub_channel_index = ctl->nr_chan;
	ctl->chan[ctl->nr_chan++] = c;
	return c;
}

static void offer_sub_channels(struct work_struct *work)
{
	struct controller *ctl = container_of(work, struct controller, offer);
	struct vmbus_channel *primary = ctl->hv.channel;
	struct vchannel *c;

	while (ctl->wanted) {
		ctl->wanted--;
		c = new_channel(ctl);
		if (!c)
			return;
		c->vmbus.primary_channel = primary;
		c->vmbus.device_obj = NULL;
		list_add_tail(&c->vmbus.sc_list, &primary->sc_list);
		primary->sc_creation_callback(&c->vmbus);
	}
}

static void withdraw(struct work_struct *work)
{
	struct controller *ctl = container_of(work, struct controller, withdraw);
	struct vchannel *c;
	unsigned int i;

	for (i = 0; i < ctl->nr_chan; i++) {
		c = ctl->chan[i];
		c->vmbus.rescind = true;
		/* Nothing is left in a ring, whatever the guest believes. */
		scoped_guard(spinlock_irqsave, &c->lock)
			list_splice_tail_init(&c->ring, &c->silent);
	}
	flush(ctl, SRB_ABORTED);
	device_unregister(&ctl->hv.device);
}

static int bus_match(struct device *dev, const struct device_driver *drv)
{
	const struct hv_driver *hv = container_of_const(drv, struct hv_driver,
							driver);
	const struct hv_vmbus_device_id *id;

	for (id = hv->id_table; id && !guid_is_null(&id->guid); id++)
		if (guid_equal(&id->guid, &device_to_hv_device(dev)->dev_type))
			return 1;
	return 0;
}

static int bus_probe(struct device *dev)
{
	struct hv_driver *drv = container_of(dev->driver, struct hv_driver,
					     driver);
	struct hv_device *hv = device_to_hv_device(dev);
	const struct hv_vmbus_device_id *id = drv->id_table;

	while (!guid_equal(&id->guid, &hv->dev_type))
		id++;
	return drv->probe(hv, id);
}

static void bus_remove(struct device *dev)
{
	struct hv_driver *drv = container_of(dev->driver, struct hv_driver,
					     driver);

	if (drv->remove)
		drv->remove(device_to_hv_device(dev));
}

static const struct bus_type bus = {
	.name	= "vmbus",
	.match	= bus_match,
	.probe	= bus_probe,
	.remove	= bus_remove,
};

int __vmbus_driver_register(struct hv_driver *hv_driver, struct module *owner,
			    const char *mod_name)
{
	hv_driver->driver.name = hv_driver->name;
	hv_driver->driver.owner = owner;
	hv_driver->driver.mod_name = mod_name;
	hv_driver->driver.bus = &bus;
	return driver_register(&hv_driver->driver);
}
EXPORT_SYMBOL_GPL(__vmbus_driver_register);

void vmbus_driver_unregister(struct hv_driver *hv_driver)
{
	driver_unregister(&hv_driver->driver);
}
EXPORT_SYMBOL_GPL(vmbus_driver_unregister);

static void release(struct device *dev)
{
	struct hv_device *hv = device_to_hv_device(dev);
	struct controller *ctl = container_of(hv, struct controller, hv);
	unsigned int i;

	for (i = 0; i < ctl->nr_chan; i++) {
		free_page((unsigned long)ctl->chan[i]->vmbus.outbound.ring_buffer);
		kfree(ctl->chan[i]);
	}
	for (i = 0; !shared && i < disks; i++)
		vfree(ctl->disk[i].data);
	/* The rest is looked at in debugfs until the module is unloaded. */
	ctl->nr_chan = 0;
}

/* debugfs. */

static int withdraw_set(void *data, u64 val)
{
	struct controller *ctl = data;

	if (val != 1 || ctl->withdrawn)
		return -EINVAL;
	ctl->withdrawn = true;
	schedule_work(&ctl->withdraw);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(withdraw_fops, NULL, withdraw_set, "%llu\n");

static int stall_get(void *data, u64 *val)
{
	*val = ((struct controller *)data)->stall;
	return 0;
}

static int stall_set(void *data, u64 val)
{
	struct controller *ctl = data;
	unsigned int i;

	WRITE_ONCE(ctl->stall, val);
	for (i = 0; i < ctl->nr_chan; i++)
		host_read(ctl->chan[i]);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(stall_fops, stall_get, stall_set, "%llu\n");

static void debugfs_controller(struct controller *ctl)
{
	struct dentry *dir;
	char name[16];
	unsigned int i;

	snprintf(name, sizeof(name), "%u", ctl->nr);
	ctl->dir = debugfs_create_dir(name, debugfs);
	debugfs_create_file("withdraw", 0200, ctl->dir, ctl, &withdraw_fops);
	debugfs_create_file("stall", 0600, ctl->dir, ctl, &stall_fops);
	debugfs_create_u32("depth", 0600, ctl->dir, &ctl->depth);
	debugfs_create_u32("channels", 0400, ctl->dir, &ctl->nr_chan);
	debugfs_create_atomic_t("commands", 0400, ctl->dir, &ctl->commands);
	debugfs_create_atomic_t("outstanding", 0400, ctl->dir,
				&ctl->outstanding);
	debugfs_create_atomic_t("refused", 0400, ctl->dir, &ctl->refused);
	debugfs_create_atomic_t("ring_full", 0400, ctl->dir, &ctl->ring_full);
	for (i = 0; i < disks; i++) {
		struct disk *d = &ctl->disk[i];

		snprintf(name, sizeof(name), "disk%u", i);
		dir = debugfs_create_dir(name, ctl->dir);
		debugfs_create_bool("present", 0600, dir, &d->present);
		debugfs_create_u32("latency_us", 0600, dir, &d->latency_us);
		debugfs_create_u32("kib_s", 0600, dir, &d->kib_s);
		debugfs_create_u32("silent", 0600, dir, &d->silent);
		debugfs_create_u32("errors", 0600, dir, &d->errors);
		debugfs_create_u32("error_kind", 0600, dir, &d->error_kind);
		debugfs_create_atomic_t("reads", 0400, dir, &d->reads);
		debugfs_create_atomic_t("writes", 0400, dir, &d->writes);
	}
}

static const struct {
	guid_t guid;
} scsi = { HV_SCSI_GUID };

static int add_controller(unsigned int nr)
{
	struct controller *ctl = kzalloc_obj(*ctl);
	struct device *dev;
	struct vchannel *c;
	unsigned int i;

	if (!ctl)
		return -ENOMEM;
	ctl->nr = nr;
	INIT_WORK(&ctl->offer, offer_sub_channels);
	INIT_WORK(&ctl->withdraw, withdraw);
	for (i = 0; i < disks; i++) {
		struct disk *d = &ctl->disk[i];

		spin_lock_init(&d->lock);
		d->present = true;
		d->latency_us = latency_us;
		d->data = shared && common[i] ? common[i] :
			vzalloc((size_t)mib << 20);
		if (shared)
			common[i] = d->data;
		if (!d->data)
			goto free;
	}
	c = new_channel(ctl);
	if (!c)
		goto free;
	ctl->hv.channel = &c->vmbus;
	guid_copy(&ctl->hv.dev_type, &scsi.guid);
	ctl->hv.dev_instance = GUID_INIT(0xfa4e0000 + nr, 0, 0, 0, 0, 0, 0, 0,
					 0, 0, 0);
	dev = &ctl->hv.device;
	dev->bus = &bus;
	dev->parent = root;
	dev->release = release;
	dev->dma_parms = &ctl->hv.dma_parms;
	dev->dma_mask = &ctl->hv.dma_mask;
	dma_set_mask(dev, DMA_BIT_MASK(64));
	dma_set_coherent_mask(dev, DMA_BIT_MASK(64));
	dev_set_name(dev, "%pUl", &ctl->hv.dev_instance);
	ctls[nr] = ctl;
	debugfs_controller(ctl);
	if (device_register(dev)) {
		ctl->withdrawn = true;
		put_device(dev);
		return -ENODEV;
	}
	return 0;

free:
	for (i = 0; !shared && i < disks; i++)
		vfree(ctl->disk[i].data);
	kfree(ctl);
	return -ENOMEM;
}

static void cleanup(void)
{
	unsigned int i;

	debugfs_remove(debugfs);
	for (i = 0; i < MAX_CONTROLLERS; i++) {
		if (!ctls[i])
			continue;
		cancel_work_sync(&ctls[i]->offer);
		flush_work(&ctls[i]->withdraw);
		if (!ctls[i]->withdrawn)
			device_unregister(&ctls[i]->hv.device);
		kfree(ctls[i]);
	}
	for (i = 0; i < MAX_DISKS; i++)
		vfree(common[i]);
	if (!IS_ERR_OR_NULL(root))
		root_device_unregister(root);
	bus_unregister(&bus);
}

static int __init fake_vmbus_init(void)
{
	unsigned int i;
	int ret;

	if (!controllers || controllers > MAX_CONTROLLERS || !disks ||
	    disks > MAX_DISKS || !mib || !channels || !max_transfer_kib ||
	    max_transfer_kib % 4)
		return -EINVAL;
	ret = bus_register(&bus);
	if (ret)
		return ret;
	root = root_device_register("fake_vmbus");
	if (IS_ERR(root)) {
		bus_unregister(&bus);
		return PTR_ERR(root);
	}
	debugfs = debugfs_create_dir("fake_vmbus", NULL);
	for (i = 0; i < controllers && !ret; i++)
		ret = add_controller(i);
	if (ret)
		cleanup();
	return ret;
}
module_init(fake_vmbus_init);

static void __exit fake_vmbus_exit(void)
{
	cleanup();
}
module_exit(fake_vmbus_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("SCSI controllers for hv_storvsc without Hyper-V");
