// SPDX-License-Identifier: GPL-2.0
/*
 * The DMA engine: reads frames out of the sender's memory and writes payload to wherever a DMA address points, knowing
 * nothing of struct page there, as a NIC would. On the way it sums what it moves, for the checksum units of both ports.
 */
#include <linux/dma-direct.h>
#include <linux/pfn.h>
#include <net/checksum.h>
#include <net/netmem.h>

#include "devmemsim.h"

/*
 * Where the NIC's writes to this DMA address go, or NULL if no memory of this machine is behind it. The parent has no
 * IOMMU, so a DMA address is a physical one; a dma-buf's memory may have no struct page that is its own, hence by pfn.
 */
void *dms_dma_target(struct device *dma_dev, netmem_ref netmem, unsigned int offset)
{
	phys_addr_t phys = dma_to_phys(dma_dev, page_pool_get_dma_addr_netmem(netmem)) + offset;

	return pfn_valid(PHYS_PFN(phys)) ? phys_to_virt(phys) : NULL;
}

static const void *dms_frag_source(struct device *dma_dev, const skb_frag_t *frag)
{
	if (!skb_frag_is_net_iov(frag))
		return skb_frag_address(frag);
	return dms_dma_target(dma_dev, skb_frag_netmem(frag), skb_frag_off(frag));
}

static __wsum dms_move(const void *from, void *to, unsigned int len)
{
	return to ? csum_partial_copy_nocheck(from, to, len) : csum_partial(from, len, 0);
}

/*
 * Copies @len bytes at @offset of @frame to @to (NULL: nowhere) and returns their sum, as if they began at an even
 * address. Frames have no frag list: the port does not offer NETIF_F_FRAGLIST.
 */
__wsum dms_dma_read(const struct sk_buff *frame, unsigned int offset, void *to, unsigned int len, struct device *dma_dev)
{
	unsigned int start = skb_headlen(frame), done = 0, n, i;
	__wsum sum = 0;

	if (offset < start) {
		n = min(len, start - offset);
		sum = dms_move(frame->data + offset, to, n);
		done = n;
	}
	for (i = 0; i < skb_shinfo(frame)->nr_frags && done < len; i++) {
		const skb_frag_t *frag = &skb_shinfo(frame)->frags[i];
		unsigned int end = start + skb_frag_size(frag);
		const u8 *from;

		if (offset + done < end) {
			n = min(len - done, end - offset - done);
			from = dms_frag_source(dma_dev, frag);
			if (from)
				sum = csum_block_add(sum, dms_move(from + (offset + done - start),
								   to ? to + done : NULL, n), done);
			done += n;
		}
		start = end;
	}
	return sum;
}
