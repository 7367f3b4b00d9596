// SPDX-License-Identifier: GPL-2.0
/*
 * Transmit: what the stack hands over becomes frames of at most the MTU, each is classified as the peer's parser would,
 * and put on the wire to the Rx queue that is to take it. A Tx queue stops while its ring's worth of frames is out, so
 * a slow receiver holds the sender back instead of losing frames.
 */
#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <net/gso.h>

#include "devmemsim.h"

/* The TCP or UDP checksum is filled in while the payload moves (rx.c); any other that is still owed, here. */
static int dms_tx_checksum(struct sk_buff *frame, const struct dms_flow *flow)
{
	if (frame->ip_summed != CHECKSUM_PARTIAL)
		return 0;
	if (flow->headers && skb_checksum_start_offset(frame) == flow->l4)
		return 0;
	return skb_checksum_help(frame);
}

static void dms_launch(struct dms_txq *txq, struct sk_buff *frame)
{
	struct dms_port *peer = txq->port->peer;
	struct dms_wire wire = { .txq = txq };
	enum pkt_hash_types type = PKT_HASH_TYPE_NONE;
	struct dms_flow flow;
	u16 queue;

	skb_reset_mac_header(frame);
	dms_parse(frame, &flow);
	if (!READ_ONCE(peer->up) || dms_tx_checksum(frame, &flow)) {
		dms_count(txq, errors, 1);
		dev_kfree_skb_any(frame);
		return;
	}
	queue = dms_steer(peer, &flow, &wire.hash, &type);
	wire.hash_type = type;
	wire.l3 = flow.l3;
	wire.l4 = flow.l4;
	wire.headers = flow.headers;
	if (queue == DMS_STEER_DISCARD) {
		wire.discard = true;
		queue = 0;
	}
	dms_count(txq, packets, 1);
	dms_count(txq, bytes, frame->len);
	*dms_wire(frame) = wire;
	atomic_inc(&txq->in_flight);
	dms_rx_inbound(&peer->rxq[queue], frame);
}

/*
 * A ring that grows or shrinks meanwhile loses no wake-up: a stopped queue has frames out, and the last of them to be done
 * is below any mark.
 */
static unsigned int dms_tx_wake_mark(const struct dms_txq *txq)
{
	return READ_ONCE(txq->port->tx_ring) / 2;
}

static void dms_tx_maybe_stop(struct dms_txq *txq, struct netdev_queue *queue)
{
	if (atomic_read(&txq->in_flight) < READ_ONCE(txq->port->tx_ring))
		return;
	netif_tx_stop_queue(queue);
	dms_count(txq, stop, 1);
	/* Pairs with the full barrier of the decrement in dms_tx_done(): one of both sees the other. */
	smp_mb__after_atomic();
	if (atomic_read(&txq->in_flight) < dms_tx_wake_mark(txq))
		netif_tx_start_queue(queue);
}

netdev_tx_t dms_xmit(struct sk_buff *skb, struct net_device *dev)
{
	const netdev_features_t segment_with = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_HIGHDMA;
	struct dms_port *port = dms_port(dev);
	u16 index = skb_get_queue_mapping(skb);
	struct dms_txq *txq = &port->txq[index];
	struct sk_buff *frames = skb, *next, *frame;
	unsigned int wire_packets = 0, wire_bytes = 0;
	bool gso = skb_is_gso(skb);

	if (skb->ip_summed == CHECKSUM_PARTIAL)
		dms_count(txq, needs_csum, 1);
	else
		dms_count(txq, csum_none, 1);

	if (gso) {
		frames = skb_gso_segment(skb, segment_with);
		if (IS_ERR_OR_NULL(frames)) {
			dms_count(txq, errors, 1);
			dev_kfree_skb_any(skb);
			return NETDEV_TX_OK;
		}
		dms_count(txq, gso_packets, 1);
		dms_count(txq, gso_bytes, skb->len);
		consume_skb(skb);
	} else if (skb->len < ETH_ZLEN && skb_frags_readable(skb) && eth_skb_pad(skb)) {
		return NETDEV_TX_OK;
	}

	skb_list_walk_safe(frames, frame, next) {
		skb_mark_not_on_list(frame);
		wire_packets++;
		wire_bytes += frame->len;
		dms_launch(txq, frame);
	}
	if (gso) {
		dms_count(txq, gso_wire_packets, wire_packets);
		dms_count(txq, gso_wire_bytes, wire_bytes);
	}
	dms_tx_maybe_stop(txq, netdev_get_tx_queue(dev, index));
	return NETDEV_TX_OK;
}

void dms_tx_room(struct dms_port *port)
{
	unsigned int i;

	for (i = 0; i < port->channels && READ_ONCE(port->up); i++)
		if (atomic_read(&port->txq[i].in_flight) < dms_tx_wake_mark(&port->txq[i]))
			netif_tx_wake_queue(netdev_get_tx_queue(port->dev, i));
}

/* The peer is done with @frame. @budget as for napi_consume_skb(): 0 outside of NAPI. */
void dms_tx_done(struct sk_buff *frame, int budget)
{
	struct dms_txq *txq = dms_wire(frame)->txq;
	struct netdev_queue *queue = netdev_get_tx_queue(txq->port->dev, txq->index);

	napi_consume_skb(frame, budget);
	if (atomic_dec_return(&txq->in_flight) < dms_tx_wake_mark(txq) && netif_tx_queue_stopped(queue) &&
	    READ_ONCE(txq->port->up)) {
		atomic64_inc(&txq->wakes);
		netif_tx_wake_queue(queue);
	}
}
