// SPDX-License-Identifier: GPL-2.0
/*
 * While this is loaded, some allocations from DMA pools that must not sleep
 * fail: a driver has no memory to describe a request with. How many is told in
 * the parameter "failed".
 */
#include <linux/gfp.h>
#include <linux/kprobes.h>
#include <linux/module.h>

static unsigned int every = 8;
module_param(every, uint, 0400);
MODULE_PARM_DESC(every, "One of so many fails");

static atomic_t calls = ATOMIC_INIT(0);
static atomic_t failures = ATOMIC_INIT(0);

static int failed_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%d\n", atomic_read(&failures));
}

static const struct kernel_param_ops failed_ops = {
	.get = failed_get,
};
module_param_cb(failed, &failed_ops, NULL, 0400);
MODULE_PARM_DESC(failed, "How many have failed");

/* Called in its place, at its first instruction. */
static noinline notrace void *no_memory(void)
{
	return NULL;
}

static int __kprobes fail_alloc(struct kprobe *p, struct pt_regs *regs)
{
	gfp_t gfp = regs_get_kernel_argument(regs, 1);

	if (gfpflags_allow_blocking(gfp) || atomic_inc_return(&calls) % every)
		return 0;

	atomic_inc(&failures);
	instruction_pointer_set(regs, (unsigned long)no_memory);
	return 1;
}

/* A probe with this one is not optimized, and may change what runs next. */
static void __kprobes keep(struct kprobe *p, struct pt_regs *regs,
			   unsigned long flags)
{
}

static struct kprobe probe = {
	.symbol_name	= "dma_pool_alloc",
	.pre_handler	= fail_alloc,
	.post_handler	= keep,
};

static int __init no_descriptors_init(void)
{
	if (!every)
		return -EINVAL;
	return register_kprobe(&probe);
}

static void __exit no_descriptors_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(no_descriptors_init);
module_exit(no_descriptors_exit);
MODULE_DESCRIPTION("Lets allocations from DMA pools fail");
MODULE_LICENSE("GPL");
