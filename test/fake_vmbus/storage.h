/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The storage protocol of Hyper-V as its host's side sees it: what
 * drivers/scsi/storvsc_drv.c keeps to itself.
 */
#ifndef _FAKE_VMBUS_STORAGE_H
#define _FAKE_VMBUS_STORAGE_H

#include <linux/build_bug.h>
#include <linux/types.h>

enum {
	OP_COMPLETE_IO		= 1,
	OP_EXECUTE_SRB		= 3,
	OP_RESET_BUS		= 6,
	OP_BEGIN_INIT		= 7,
	OP_END_INIT		= 8,
	OP_QUERY_VERSION	= 9,
	OP_QUERY_PROPERTIES	= 10,
	OP_SUB_CHANNELS		= 13,
};

#define STOR_VERSION_WIN8_1		0x0600
#define STOR_VERSION_WIN10		0x0602

#define PROPERTY_MULTI_CHANNEL	1

#define SRB_OK			0x01
#define SRB_ABORTED		0x02
#define SRB_ERROR		0x04
#define SRB_BUS_RESET		0x0e
#define SRB_INVALID_LUN		0x20
#define SRB_SENSE_VALID		0x80

#define SRB_IN			1

struct srb {
	__le16 length;
	u8 srb_status;
	u8 scsi_status;
	u8 port;
	u8 path;
	u8 target;
	u8 lun;
	u8 cdb_len;
	u8 sense_len;
	u8 direction;
	u8 reserved;
	__le32 data_len;
	union {
		u8 cdb[16];
		u8 sense[20];
	};
	u8 rest[16];
} __packed;

struct vstor {
	__le32 operation;
	__le32 flags;
	__le32 status;
	union {
		struct srb srb;
		struct {
			__le16 version;
			__le16 revision;
		} version;
		struct {
			__le32 reserved;
			__le16 max_channels;
			__le16 reserved1;
			__le32 flags;
			__le32 max_transfer;
			__le64 reserved2;
		} __packed properties;
		__le16 sub_channels;
		u8 buffer[0x34];
	};
} __packed;

static_assert(sizeof(struct srb) == 0x34 && sizeof(struct vstor) == 0x40);

#endif
