// SPDX-License-Identifier: GPL-2.0
/*
 * What a map and its unmap cost, in ticks of the time stamp counter. Under
 * QEMU's -icount shift=0 with one CPU a tick is an instruction.
 *
 * The device is called like the platform device that kernel/dma/map_benchmark.c
 * looks for, so while this is loaded that has one to work with, too.
 */
#include <linux/dma-direct.h>
#include <linux/dma-mapping.h>
#include <linux/irqflags.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/timex.h>

static unsigned int size = SZ_4K;
module_param(size, uint, 0444);
MODULE_PARM_DESC(size, "bytes to map");

/*
 * The search begins where the last one ended. So many pairs go round a pool of
 * 64 MiB a whole number of times, whatever it began with.
 */
static unsigned int pairs = 16384;
module_param(pairs, uint, 0444);
MODULE_PARM_DESC(pairs, "pairs in a loop");

static unsigned int loops = 3;
module_param(loops, uint, 0444);
MODULE_PARM_DESC(loops, "how often to measure that");

static bool may_block;
module_param(may_block, bool, 0444);
MODULE_PARM_DESC(may_block, "map with DMA_ATTR_MAY_BLOCK");

static bool sync = true;
module_param(sync, bool, 0444);
MODULE_PARM_DESC(sync, "copy the data");

static struct platform_device *pdev;

/* Ticks of @pairs pairs; of as many empty rounds without @addr. */
static u64 round_ticks(struct device *dev, void *addr, unsigned long attrs,
		       unsigned int *failed)
{
	unsigned long flags;
	cycles_t begin, end;
	dma_addr_t dma;
	unsigned int i;

	local_irq_save(flags);
	begin = get_cycles();
	for (i = 0; i < pairs; i++) {
		if (addr) {
			dma = dma_map_single_attrs(dev, addr, size,
						   DMA_TO_DEVICE, attrs);
			if (dma_mapping_error(dev, dma))
				++*failed;
			else
				dma_unmap_single_attrs(dev, dma, size,
						       DMA_TO_DEVICE, attrs);
		}
		barrier();
	}
	end = get_cycles();
	local_irq_restore(flags);
	return end - begin;
}

static int measure(struct device *dev)
{
	unsigned int failed = 0, i;
	unsigned long attrs = 0;
	u64 empty, ticks;
	dma_addr_t dma;
	bool bounces;
	void *buf;

#ifdef DMA_ATTR_MAY_BLOCK
	if (may_block)
		attrs |= DMA_ATTR_MAY_BLOCK;
#else
	if (may_block)
		return -EOPNOTSUPP;
#endif
	if (!sync)
		attrs |= DMA_ATTR_SKIP_CPU_SYNC;

	buf = alloc_pages_exact(size, GFP_KERNEL | __GFP_ZERO);
	if (!buf)
		return -ENOMEM;

	dma = dma_map_single(dev, buf, size, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, dma)) {
		free_pages_exact(buf, size);
		return -EIO;
	}
	bounces = dma != phys_to_dma(dev, virt_to_phys(buf));
	dma_unmap_single(dev, dma, size, DMA_TO_DEVICE);

	/* Whatever happens once only. */
	round_ticks(dev, buf, attrs, &failed);
	for (i = 0; i < loops; i++) {
		empty = round_ticks(dev, NULL, attrs, &failed);
		ticks = round_ticks(dev, buf, attrs, &failed);
		pr_info("pair: {\"size\":%u,\"may_block\":%d,\"sync\":%d,\"bounces\":%d,\"pairs\":%u,\"empty\":%llu,\"ticks\":%llu,\"failed\":%u}\n",
			size, may_block, sync, bounces, pairs, empty, ticks,
			failed);
	}
	free_pages_exact(buf, size);
	return 0;
}

static int __init pair_init(void)
{
	struct platform_device_info info = {
		.name = "dma_map_benchmark",
		.id = PLATFORM_DEVID_NONE,
		.dma_mask = DMA_BIT_MASK(64),
	};
	int ret;

	pdev = platform_device_register_full(&info);
	if (IS_ERR(pdev))
		return PTR_ERR(pdev);
	ret = measure(&pdev->dev);
	if (ret)
		platform_device_unregister(pdev);
	return ret;
}
module_init(pair_init);

static void __exit pair_exit(void)
{
	platform_device_unregister(pdev);
}
module_exit(pair_exit);

MODULE_DESCRIPTION("Cost of a DMA map and unmap");
MODULE_LICENSE("GPL");
