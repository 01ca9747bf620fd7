// SPDX-License-Identifier: GPL-2.0
/*
 * While this is loaded, each NVMe controller that is reset is taken for one that
 * knows SGLs for metadata. QEMU's does, but does not tell in all versions. A
 * request may have several segments of metadata then.
 */
#include <linux/kprobes.h>
#include <linux/module.h>

#include "nvme.h"

static int __kprobes init_begins(struct kretprobe_instance *ri,
				 struct pt_regs *regs)
{
	*(struct nvme_ctrl **)ri->data =
		(struct nvme_ctrl *)regs_get_kernel_argument(regs, 0);
	return 0;
}

static int __kprobes init_ends(struct kretprobe_instance *ri,
			       struct pt_regs *regs)
{
	struct nvme_ctrl *ctrl = *(struct nvme_ctrl **)ri->data;

	ctrl->sgls |= NVME_CTRL_SGLS_MSDS;
	return 0;
}

static struct kretprobe probe = {
	.kp.symbol_name	= "nvme_init_ctrl_finish",
	.entry_handler	= init_begins,
	.handler	= init_ends,
	.data_size	= sizeof(struct nvme_ctrl *),
	.maxactive	= 4,
};

static int __init meta_sgl_init(void)
{
	return register_kretprobe(&probe);
}

static void __exit meta_sgl_exit(void)
{
	unregister_kretprobe(&probe);
}

module_init(meta_sgl_init);
module_exit(meta_sgl_exit);
MODULE_DESCRIPTION("NVMe controllers know SGLs for metadata");
MODULE_LICENSE("GPL");
