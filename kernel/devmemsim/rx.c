// SPDX-License-Identifier: GPL-2.0
/*
 * Receive: a queue's NAPI takes frames off the wire, lets the fault knobs have their way with them, splits header from
 * payload, moves the payload into posted buffers, verifies the checksum, and gives the stack an skb.
 */
#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <net/checksum.h>
#include <net/ip6_checksum.h>

#include "devmemsim.h"

/* Frames up to this are copied into the skb whole, where the queue does not split; longer ones only by this much. */
#define DMS_COPYBREAK	256U
#define DMS_SPLIT_LATE	64U

/* --- the wire's end ------------------------------------------------------------------------------------------ */

/* Stopping a queue clears `running`, then waits for RCU: whoever saw it set schedules a NAPI that is still there. */
static void dms_rx_kick(struct dms_rxq *rxq)
{
	u32 usecs = READ_ONCE(rxq->port->rx_usecs);

	if (!READ_ONCE(rxq->armed) || !xchg(&rxq->armed, 0) || !READ_ONCE(rxq->running))
		return;
	if (usecs)
		hrtimer_start(&rxq->moderation, ns_to_ktime((u64)usecs * NSEC_PER_USEC), HRTIMER_MODE_REL);
	else
		napi_schedule(&rxq->napi);
}

/* dms_queue_halt() cancels the timer after `running` was cleared and before it disables the NAPI. */
static enum hrtimer_restart dms_rx_moderated(struct hrtimer *timer)
{
	napi_schedule(&container_of(timer, struct dms_rxq, moderation)->napi);
	return HRTIMER_NORESTART;
}

void dms_rx_inbound(struct dms_rxq *rxq, struct sk_buff *frame)
{
	skb_queue_tail(&rxq->inbound, frame);
	smp_mb();	/* pairs with dms_rx_arm(): one of both sees the other's write */
	dms_rx_kick(rxq);
}

/* Unmasks the interrupt, which comes at once if there is a frame already. */
static void dms_rx_arm(struct dms_rxq *rxq)
{
	WRITE_ONCE(rxq->armed, 1);
	smp_mb();	/* pairs with dms_rx_inbound() */
	if (!skb_queue_empty_lockless(&rxq->inbound))
		dms_rx_kick(rxq);
}

static void dms_rx_delay_expired(struct timer_list *timer)
{
	struct dms_rxq *rxq = container_of(timer, struct dms_rxq, delay_timer);
	struct sk_buff *frame;

	while ((frame = skb_dequeue(&rxq->delayed))) {
		if (time_before(jiffies, dms_wire(frame)->due)) {
			skb_queue_head(&rxq->delayed, frame);
			mod_timer(timer, dms_wire(frame)->due);
			break;
		}
		dms_rx_inbound(rxq, frame);
	}
}

void dms_rx_init(struct dms_rxq *rxq)
{
	skb_queue_head_init(&rxq->inbound);
	skb_queue_head_init(&rxq->delayed);
	skb_queue_head_init(&rxq->held);
	timer_setup(&rxq->delay_timer, dms_rx_delay_expired, 0);
	hrtimer_setup(&rxq->moderation, dms_rx_moderated, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
	u64_stats_init(&rxq->sync);
}

/* Forgets the frames on the wire to this queue. NAPI may run or not; process context. */
void dms_rx_purge(struct dms_rxq *rxq)
{
	struct sk_buff_head *lists[] = { &rxq->delayed, &rxq->held, &rxq->inbound };
	struct sk_buff *frame;
	unsigned int i;

	timer_delete_sync(&rxq->delay_timer);
	for (i = 0; i < ARRAY_SIZE(lists); i++) {
		while ((frame = skb_dequeue(lists[i]))) {
			local_bh_disable();
			dms_tx_done(frame, 0);
			local_bh_enable();
		}
	}
}

/* --- one frame into memory ----------------------------------------------------------------------------------- */

struct dms_rx_frame {
	struct sk_buff *frame;
	const struct dms_wire *wire;
	struct sk_buff *skb;		/* what the stack gets */
	unsigned int head;		/* bytes in its linear part */
	struct dms_piece pieces[MAX_SKB_FRAGS];
	int n;				/* pieces */
	__wsum payload;			/* sum of the pieces' bytes, as sent */
	bool write_lost, write_misplaced;
};

static struct device *dms_dma_dev(const struct dms_rxq *rxq)
{
	return rxq->port->dev->dev.parent;
}

/* Where piece @i is written; NULL and -EFAULT if its DMA address leads nowhere. */
static int dms_piece_target(struct dms_rxq *rxq, const struct dms_rx_frame *rx, int i, void **target)
{
	const struct dms_piece *piece = &rx->pieces[i];
	netmem_ref netmem = piece->netmem, other;
	u32 offset = piece->offset;

	*target = NULL;
	if (rx->write_lost)
		return 0;
	if (rx->write_misplaced && (other = dms_rx_next_buffer(&rxq->mem))) {
		netmem = other;
		offset = min(offset, rxq->mem.buffer_size - piece->len);
	}
	*target = dms_dma_target(dms_dma_dev(rxq), netmem, offset);
	return *target ? 0 : -EFAULT;
}

static int dms_rx_payload(struct dms_rxq *rxq, struct dms_rx_frame *rx)
{
	struct device *from_dev = rx->wire->txq->port->dev->dev.parent;
	unsigned int done = 0;
	void *to;
	int i;

	rx->payload = 0;
	for (i = 0; i < rx->n; i++) {
		const struct dms_piece *piece = &rx->pieces[i];
		__wsum sum;

		if (dms_piece_target(rxq, rx, i, &to)) {
			dms_count(rxq, dma_faults, 1);
			return -EFAULT;
		}
		sum = dms_dma_read(rx->frame, rx->head + done, to, piece->len, from_dev);
		rx->payload = csum_block_add(rx->payload, sum, done);
		done += piece->len;
		if (!netmem_is_net_iov(piece->netmem))
			dma_sync_single_range_for_cpu(dms_dma_dev(rxq), page_pool_get_dma_addr_netmem(piece->netmem),
						      piece->offset, piece->len, DMA_FROM_DEVICE);
	}
	return 0;
}

/* --- checksums ------------------------------------------------------------------------------------------------ */

/* Sum of everything from @start, which is in the linear part. */
static __wsum dms_rx_sum(const struct dms_rx_frame *rx, unsigned int start, __wsum payload)
{
	unsigned int linear = rx->head - start;

	return csum_block_add(csum_partial(rx->skb->data + start, linear, 0), payload, linear);
}

/* The sender's part: the checksum that it left to its NIC. */
static void dms_complete_tx_checksum(const struct dms_rx_frame *rx)
{
	unsigned int start;
	__sum16 sum;

	if (rx->frame->ip_summed != CHECKSUM_PARTIAL)
		return;
	start = skb_checksum_start_offset(rx->frame);
	sum = csum_fold(dms_rx_sum(rx, start, rx->payload));
	*(__sum16 *)(rx->skb->data + start + rx->frame->csum_offset) = sum ?: CSUM_MANGLED_0;
}

/* As the frame lies here, not as the sender's stack described it. */
static bool dms_l4_valid(const struct dms_rx_frame *rx)
{
	unsigned int l3 = rx->wire->l3, l4 = rx->wire->l4;
	const void *at = rx->skb->data + l3;
	const struct ipv6hdr *ip6 = at;
	const struct iphdr *ip = at;
	__wsum sum = dms_rx_sum(rx, l4, rx->payload);
	unsigned int len;

	if (ip->version == 4) {
		if (ip->protocol == IPPROTO_UDP && !((struct udphdr *)(rx->skb->data + l4))->check)
			return true;
		len = ntohs(ip->tot_len) - (l4 - l3);
		return !csum_tcpudp_magic(ip->saddr, ip->daddr, len, ip->protocol, sum);
	}
	len = ntohs(ip6->payload_len) - (l4 - l3 - sizeof(*ip6));
	return !csum_ipv6_magic(&ip6->saddr, &ip6->daddr, len, ip6->nexthdr, sum);
}

/* Flips a byte of the payload where it now lies, after the sender's checksum was made. */
static void dms_corrupt(struct dms_rxq *rxq, struct dms_rx_frame *rx)
{
	unsigned int done = 0, in_skb = rx->head - rx->wire->headers;
	void *at;
	int i;

	if (in_skb)
		rx->skb->data[rx->wire->headers + in_skb / 2] ^= 0xff;
	if (!rx->n || dms_piece_target(rxq, rx, 0, &at) || !at)
		return;
	if (!in_skb)
		*((u8 *)at + rx->pieces[0].len / 2) ^= 0xff;
	rx->payload = 0;
	for (i = 0; i < rx->n; i++) {
		if (dms_piece_target(rxq, rx, i, &at) || !at)
			return;
		rx->payload = csum_block_add(rx->payload, csum_partial(at, rx->pieces[i].len, 0), done);
		done += rx->pieces[i].len;
	}
}

/* False: the frame must not go up. Memory that the CPU cannot read is never handed over unverified. */
static bool dms_rx_verify(struct dms_rxq *rxq, struct dms_rx_frame *rx)
{
	struct sk_buff *skb = rx->skb;

	skb->ip_summed = CHECKSUM_NONE;
	if (rx->wire->headers && dms_l4_valid(rx)) {
		if (rxq->port->dev->features & NETIF_F_RXCSUM) {
			skb->ip_summed = CHECKSUM_UNNECESSARY;
			dms_count(rxq, csum_unnecessary, 1);
		} else {
			dms_count(rxq, csum_none, 1);
		}
		return true;
	}
	if (rx->wire->headers)
		dms_count(rxq, csum_bad, 1);
	if (!skb_frags_readable(skb)) {
		dms_count(rxq, drops, 1);
		return false;
	}
	if (!rx->wire->headers && (rxq->port->dev->features & NETIF_F_RXCSUM)) {
		skb->ip_summed = CHECKSUM_COMPLETE;
		skb->csum = dms_rx_sum(rx, ETH_HLEN, rx->payload);
		dms_count(rxq, csum_complete, 1);
	} else {
		dms_count(rxq, csum_none, 1);
	}
	return true;
}

/* --- to the stack --------------------------------------------------------------------------------------------- */

void dms_rx_deliver(struct dms_rxq *rxq, struct sk_buff *skb)
{
	if (READ_ONCE(rxq->running))
		napi_gro_receive(&rxq->napi, skb);
	else	/* from dms_queue_halt(): nobody polls any more */
		netif_receive_skb(skb);
}

static unsigned int dms_head_length(struct dms_rxq *rxq, const struct sk_buff *frame, const struct dms_wire *wire,
				    bool split)
{
	if (split && frame->len - wire->headers > 1 && dms_fault(&rxq->faults, DMS_FAULT_SPLIT_LATE))
		return wire->headers + min(DMS_SPLIT_LATE, frame->len - wire->headers - 1);
	if (split)
		return wire->headers;
	if (frame->len <= DMS_COPYBREAK || dms_pool_unreadable(rxq->mem.pool))
		return frame->len;
	return wire->headers ?: min(frame->len, DMS_COPYBREAK);
}

static bool dms_wants_split(struct dms_rxq *rxq, const struct sk_buff *frame, const struct dms_wire *wire)
{
	return rxq->mem.split && wire->headers && frame->len > wire->headers + rxq->mem.hds_thresh &&
	       !dms_fault(&rxq->faults, DMS_FAULT_LINEAR);
}

/*
 * @own: with memory of its own for the head, not a piece of a page. Payload in a head that is a piece of a page would be
 * made a fragment of the packet it is merged with, among the unreadable ones.
 */
static struct sk_buff *dms_alloc_head(struct dms_rxq *rxq, unsigned int len, bool own)
{
	struct sk_buff *skb;

	if (!own)
		return napi_alloc_skb(&rxq->napi, len);
	skb = alloc_skb(NET_SKB_PAD + NET_IP_ALIGN + len, GFP_ATOMIC | __GFP_NOWARN);
	if (skb) {
		skb_reserve(skb, NET_SKB_PAD + NET_IP_ALIGN);
		skb->dev = rxq->port->dev;
	}
	return skb;
}

static void dms_rx_place(struct dms_rxq *rxq, struct sk_buff *frame, bool corrupt)
{
	const struct dms_wire *wire = dms_wire(frame);
	struct net_device *dev = rxq->port->dev;
	bool gro_hw = dev->features & NETIF_F_GRO_HW;
	struct dms_rx_frame rx = { .frame = frame, .wire = wire };
	bool split = dms_wants_split(rxq, frame, wire);
	unsigned int payload;
	struct sk_buff *skb;
	int i;

	rx.head = dms_head_length(rxq, frame, wire, split);
	payload = frame->len - rx.head;
	if (payload) {
		rx.n = dms_rx_take(&rxq->mem, payload, gro_hw, rx.pieces);
		if (rx.n == -ENOBUFS) {	/* what was freed meanwhile may do */
			dms_rx_refill(rxq);
			rx.n = dms_rx_take(&rxq->mem, payload, gro_hw, rx.pieces);
		}
		if (rx.n < 0) {
			dms_count(rxq, overruns, 1);
			dms_count(rxq, drops, 1);
			return;
		}
	}
	skb = dms_alloc_head(rxq, rx.head, split && rx.head > wire->headers);
	if (!skb) {
		for (i = 0; i < rx.n; i++)
			page_pool_put_full_netmem(rxq->mem.pool, rx.pieces[i].netmem, true);
		dms_count(rxq, alloc_fail, 1);
		dms_count(rxq, drops, 1);
		return;
	}
	rx.skb = skb;
	dms_dma_read(frame, 0, skb_put(skb, rx.head), rx.head, wire->txq->port->dev->dev.parent);
	for (i = 0; i < rx.n; i++)
		skb_add_rx_frag_netmem(skb, i, rx.pieces[i].netmem, rx.pieces[i].offset, rx.pieces[i].len,
				       rx.pieces[i].truesize);
	/* Not of a frame without fragments: GRO would append its head, host memory, to a packet of unreadable fragments. */
	if (rx.n)
		skb_mark_for_recycle(skb);

	if (rx.n && split) {
		rx.write_lost = dms_fault(&rxq->faults, DMS_FAULT_DMA_LOSE);
		rx.write_misplaced = dms_fault(&rxq->faults, DMS_FAULT_DMA_MISPLACE);
	}
	if (dms_rx_payload(rxq, &rx)) {
		dms_count(rxq, drops, 1);
		kfree_skb(skb);
		return;
	}
	dms_complete_tx_checksum(&rx);
	if (corrupt)
		dms_corrupt(rxq, &rx);
	if (!dms_rx_verify(rxq, &rx)) {
		kfree_skb(skb);
		return;
	}

	dms_count(rxq, packets, 1);
	dms_count(rxq, bytes, skb->len);
	if (split)
		dms_count(rxq, split, 1);
	if (dev->features & NETIF_F_RXHASH)
		skb_set_hash(skb, wire->hash, wire->hash_type);
	skb_record_rx_queue(skb, rxq->index);
	skb->protocol = eth_type_trans(skb, dev);
	if (!gro_hw || !dms_gro_receive(rxq, skb, wire))
		dms_rx_deliver(rxq, skb);
}

/* --- faults, and the poll -------------------------------------------------------------------------------------- */

static void dms_rx_drop(struct dms_rxq *rxq, struct sk_buff *frame, int budget)
{
	dms_count(rxq, drops, 1);
	dms_tx_done(frame, budget);
}

/* True: @frame was taken, and is dropped, held, delayed or another queue's. Drawn once a frame. */
static bool dms_rx_strike(struct dms_rxq *rxq, struct sk_buff *frame, int budget, bool *duplicate, bool *corrupt)
{
	struct dms_wire *wire = dms_wire(frame);
	struct dms_faults *faults = &rxq->faults;
	struct dms_port *port = rxq->port;

	if (wire->struck || !wire->headers || frame->len == wire->headers)
		return false;
	wire->struck = true;
	if (dms_fault(faults, DMS_FAULT_DROP)) {
		dms_rx_drop(rxq, frame, budget);
		return true;
	}
	if (dms_fault(faults, DMS_FAULT_MISROUTE)) {
		dms_rx_inbound(&port->rxq[min(faults->misroute_to, READ_ONCE(port->channels) - 1)], frame);
		return true;
	}
	if (dms_fault(faults, DMS_FAULT_DELAY)) {
		wire->due = jiffies + max(1UL, usecs_to_jiffies(READ_ONCE(faults->delay_us)));
		skb_queue_tail(&rxq->delayed, frame);
		if (!timer_pending(&rxq->delay_timer))
			mod_timer(&rxq->delay_timer, wire->due);
		return true;
	}
	if (dms_fault(faults, DMS_FAULT_REORDER) && skb_queue_empty_lockless(&rxq->held)) {
		skb_queue_tail(&rxq->held, frame);
		return true;
	}
	*duplicate = dms_fault(faults, DMS_FAULT_DUPLICATE);
	*corrupt = dms_fault(faults, DMS_FAULT_CORRUPT);
	return false;
}

static void dms_rx_frame(struct dms_rxq *rxq, struct sk_buff *frame, int budget)
{
	bool duplicate = false, corrupt = false;
	struct sk_buff *held;

	if (dms_wire(frame)->discard || frame->len > rxq->port->dev->mtu + ETH_HLEN + 2 * VLAN_HLEN) {
		dms_rx_drop(rxq, frame, budget);
		return;
	}
	if (dms_rx_strike(rxq, frame, budget, &duplicate, &corrupt))
		return;
	dms_rx_place(rxq, frame, corrupt);
	if (unlikely(duplicate))
		dms_rx_place(rxq, frame, false);
	dms_tx_done(frame, budget);

	if (unlikely(!skb_queue_empty_lockless(&rxq->held)) && (held = skb_dequeue(&rxq->held))) {
		dms_rx_place(rxq, held, false);
		dms_tx_done(held, budget);
	}
}

int dms_poll(struct napi_struct *napi, int budget)
{
	struct dms_rxq *rxq = container_of(napi, struct dms_rxq, napi);
	struct sk_buff *frame;
	int work = 0;

	dms_rx_refill(rxq);
	while (work < budget && (frame = skb_dequeue(&rxq->inbound))) {
		dms_rx_frame(rxq, frame, budget);
		work++;
	}
	dms_rx_refill(rxq);
	dms_gro_flush(rxq, work < budget);
	if (work == budget)
		return work;
	if (napi_complete_done(napi, work))
		dms_rx_arm(rxq);
	return work;
}
