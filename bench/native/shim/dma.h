/* SPDX-License-Identifier: GPL-2.0 */
/* As much of devices and of the DMA core as the throttle looks at. */
#ifndef SHIM_DMA_H
#define SHIM_DMA_H

#include "base.h"
#include "sync.h"

/* The attributes and struct dma_retry, cut out of the kernel's header when this is built. */
#include <dma-attrs.h>

#define IO_TLB_SIZE 2048
#define IO_TLB_SEGSIZE 128

struct swiotlb_throttle;
struct io_tlb_pool { unsigned long nslabs; };
struct io_tlb_mem {
	struct io_tlb_pool defpool;
	unsigned long nslabs;
	bool force_bounce;
	struct swiotlb_throttle *throttle;
};
struct device { struct io_tlb_mem *dma_io_tlb_mem; };

#define CC_ATTR_GUEST_MEM_ENCRYPT 0
#define cc_platform_has(attr) false
#define force_dma_unencrypted(dev) false
#define use_dma_iommu(dev) false
#define get_dma_ops(dev) NULL
#define dma_get_min_align_mask(dev) 0U

/* Lists are not mapped here; this lets the file compile. */
struct scatterlist { phys_addr_t phys; unsigned int length; };
#define for_each_sg(sgl, sg, nents, i) for ((i) = 0, (sg) = (sgl); (i) < (nents); (i)++, (sg)++)
#define sg_page(sg) (sg)
#define sg_phys(sg) ((sg)->phys)
#define is_pci_p2pdma_page(page) ((void)(page), false)

#endif
