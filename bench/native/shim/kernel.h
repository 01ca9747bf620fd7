/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SHIM_KERNEL_H
#define SHIM_KERNEL_H
#include "base.h"
#include "sync.h"
#include "percpu.h"
#include "dma.h"
#endif
