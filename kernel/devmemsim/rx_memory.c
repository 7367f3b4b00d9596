// SPDX-License-Identifier: GPL-2.0
/*
 * The fill ring: buffers of one page-pool page each (rx-page-size bytes), posted ahead of the frames as real NICs have
 * them, so that an idle queue already holds a ring's worth of the pool. Payloads are laid one after another into the
 * buffer at the tail; a buffer leaves the ring when it is full, and returns to the pool with its last fragment.
 */
#include <linux/log2.h>

#include "devmemsim.h"

/* References taken on a buffer when it is posted: one for each fragment it may be cut into, the rest given back. */
#define DMS_BUFFER_BIAS		(DMS_MAX_RX_PAGE + 1L)
#define DMS_MIN_BUFFERS		4U
#define DMS_STRIDE		64U

static netmem_ref *dms_slot(const struct dms_rx_mem *mem, u32 position)
{
	return &mem->ring[position & (mem->size - 1)];
}

static bool dms_post(struct dms_rx_mem *mem, gfp_t gfp)
{
	netmem_ref netmem = page_pool_alloc_netmems(mem->pool, gfp | __GFP_NOWARN);

	if (!netmem)
		return false;
	page_pool_fragment_netmem(netmem, DMS_BUFFER_BIAS);
	*dms_slot(mem, mem->head++) = netmem;
	return true;
}

/* Gives back the references of the tail's buffer that became no fragment. */
static void dms_retire(struct dms_rx_mem *mem, bool direct)
{
	netmem_ref netmem = *dms_slot(mem, mem->tail++);
	long unused = DMS_BUFFER_BIAS - mem->users;

	mem->offset = 0;
	mem->users = 0;
	if (!page_pool_unref_netmem(netmem, unused))
		page_pool_put_unrefed_netmem(mem->pool, netmem, -1, direct);
}

/*
 * Posts as many buffers as the pool has. config->ring counts 4 KiB; larger buffers are posted in proportion, or a ring
 * of 2 MiB buffers would swallow any pool. Fails if not even one buffer can be had; unless it @replaces a ring. That one
 * may hold the whole of the same device memory, and lets go of it before this one is run; and a core that unbinds memory
 * could only warn of a failure, while a ring that starts empty is refilled as frames come. Process context, under the
 * port's lock.
 */
int dms_rx_mem_alloc(struct dms_rxq *rxq, struct dms_rx_mem *mem, const struct dms_rx_config *config, u32 page_size,
		     bool replaces)
{
	struct dms_port *port = rxq->port;
	u32 size = roundup_pow_of_two(max(DMS_MIN_BUFFERS, config->ring / (page_size >> PAGE_SHIFT)));
	struct page_pool_params params = {
		.order = get_order(page_size),
		.pool_size = size,
		.nid = NUMA_NO_NODE,
		.dev = port->dev->dev.parent,
		.dma_dir = DMA_FROM_DEVICE,
		.max_len = page_size,
		.netdev = port->dev,
		.queue_idx = rxq->index,
		.flags = PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV,
	};

	memset(mem, 0, sizeof(*mem));
	mem->split = dms_split_on(port, config);
	mem->hds_thresh = config->hds_thresh;
	mem->size = size;
	mem->buffer_size = page_size;
	if (mem->split)	/* else headers would land in memory that the stack cannot read */
		params.flags |= PP_FLAG_ALLOW_UNREADABLE_NETMEM;

	mem->ring = kvcalloc(size, sizeof(*mem->ring), GFP_KERNEL);
	if (!mem->ring)
		return -ENOMEM;
	mem->pool = page_pool_create(&params);
	if (IS_ERR(mem->pool)) {
		int err = PTR_ERR(mem->pool);

		mem->pool = NULL;
		dms_rx_mem_free(mem);
		return err;
	}
	if (dms_pool_unreadable(mem->pool) && rxq->index < port->personality->first_bindable) {
		dms_rx_mem_free(mem);
		return -EOPNOTSUPP;
	}
	while (mem->head < mem->size && dms_post(mem, GFP_KERNEL))
		;
	if (!mem->head && !replaces) {
		dms_rx_mem_free(mem);
		return -ENOMEM;
	}
	return 0;
}

void dms_rx_mem_free(struct dms_rx_mem *mem)
{
	while (mem->tail != mem->head)
		dms_retire(mem, false);
	if (mem->pool)
		page_pool_destroy(mem->pool);
	kvfree(mem->ring);
	memset(mem, 0, sizeof(*mem));
}

/* NAPI only. */
void dms_rx_refill(struct dms_rxq *rxq)
{
	struct dms_rx_mem *mem = &rxq->mem;

	while (mem->head - mem->tail < mem->size) {
		if (dms_fault(&rxq->faults, DMS_FAULT_ALLOC) || !dms_post(mem, GFP_ATOMIC)) {
			dms_count(rxq, alloc_fail, 1);
			return;
		}
	}
}

/*
 * Cuts @len bytes out of the posted buffers into @pieces (of MAX_SKB_FRAGS); the number of pieces, or -ENOBUFS with
 * nothing taken. Each piece holds a reference. @contiguous: the next frame's bytes follow these without a gap, so that
 * hardware GRO can merge fragments. NAPI only.
 */
int dms_rx_take(struct dms_rx_mem *mem, unsigned int len, bool contiguous, struct dms_piece *pieces)
{
	unsigned int free = (mem->head - mem->tail) * mem->buffer_size - mem->offset;
	int n = 0;

	if (len > free || DIV_ROUND_UP(mem->offset % mem->buffer_size + len, mem->buffer_size) > MAX_SKB_FRAGS)
		return -ENOBUFS;
	while (len) {
		u32 chunk = min(len, mem->buffer_size - mem->offset);
		u32 end = mem->offset + chunk;

		pieces[n++] = (struct dms_piece) {
			.netmem = *dms_slot(mem, mem->tail),
			.offset = mem->offset,
			.len = chunk,
			.truesize = ALIGN(chunk, DMS_STRIDE),
		};
		mem->users++;
		len -= chunk;
		mem->offset = contiguous ? end : ALIGN(end, DMS_STRIDE);
		if (mem->offset >= mem->buffer_size)
			dms_retire(mem, true);
	}
	return n;
}

netmem_ref dms_rx_next_buffer(const struct dms_rx_mem *mem)
{
	return mem->head - mem->tail > 1 ? *dms_slot(mem, mem->tail + 1) : 0;
}
