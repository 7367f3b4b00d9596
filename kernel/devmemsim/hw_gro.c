// SPDX-License-Identifier: GPL-2.0
/*
 * Hardware GRO (NETIF_F_GRO_HW): consecutive frames of one TCP flow are merged before the stack sees them, until the NAPI
 * has no more of them to take (so longer with napi_defer_hard_irqs and gro_flush_timeout). What may be merged is what software GRO would merge, so that the sender's segmentation could be redone exactly
 * (Documentation/networking/segmentation-offloads.rst, GRO): same headers but for sequence number, checksum and the ID
 * of the IPv4 header, no flag but ACK and PSH, equal payload sizes but for a shorter last one.
 */
#include <linux/etherdevice.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <net/gro.h>
#include <net/ip6_checksum.h>
#include <net/tcp.h>

#include "devmemsim.h"

#define DMS_GRO_SESSIONS	512
#define DMS_GRO_BUCKETS		512
/* Under a load that never ends, a flow that has gone quiet is not to wait for ever. */
#define DMS_GRO_HOLD		(HZ / 20)

struct dms_gro_session {
	struct list_head list;	/* of open or of free ones */
	struct hlist_node node;	/* in the bucket of its hash, while open */
	struct sk_buff *skb;	/* the first frame's, with everybody's fragments */
	unsigned long opened;	/* jiffies */
	u32 hash;
	u32 next_seq;
	u16 l4;			/* from skb->data, which is at the network header */
	u16 headers;
	u16 size;		/* payload of a frame */
	u16 frames;
	u16 next_id;		/* of IPv4 */
	bool id_fixed;		/* the ID stays the same (DF set) */
};

struct dms_gro {
	struct list_head open;	/* in the order they were opened */
	struct list_head free;
	struct hlist_head buckets[DMS_GRO_BUCKETS];
	struct dms_gro_session sessions[DMS_GRO_SESSIONS];
};

int dms_gro_alloc(struct dms_rxq *rxq)
{
	struct dms_gro *gro = kvzalloc(sizeof(*gro), GFP_KERNEL);
	unsigned int i;

	if (!gro)
		return -ENOMEM;
	INIT_LIST_HEAD(&gro->open);
	INIT_LIST_HEAD(&gro->free);
	for (i = 0; i < DMS_GRO_SESSIONS; i++)
		list_add_tail(&gro->sessions[i].list, &gro->free);
	rxq->gro = gro;
	return 0;
}

/* With the NAPI gone, and nothing held: dms_queue_halt() has flushed. */
void dms_gro_free(struct dms_rxq *rxq)
{
	kvfree(rxq->gro);
	rxq->gro = NULL;
}

/* --- one session ------------------------------------------------------------------------------------------------------ */

static bool dms_is_v6(const struct sk_buff *skb)
{
	return skb->protocol == htons(ETH_P_IPV6);
}

static struct tcphdr *dms_tcp(const struct sk_buff *skb, const struct dms_gro_session *session)
{
	return (struct tcphdr *)(skb->data + session->l4);
}

/* The merged packet's headers, as if it had come in one piece; a checksum that a GSO of it would complete. */
static void dms_gro_finish_headers(const struct dms_gro_session *session)
{
	struct sk_buff *skb = session->skb;
	struct tcphdr *tcp = dms_tcp(skb, session);
	unsigned int len = skb->len - session->l4;

	skb_set_network_header(skb, 0);
	skb_set_transport_header(skb, session->l4);
	if (dms_is_v6(skb)) {
		struct ipv6hdr *ip6 = ipv6_hdr(skb);

		ip6->payload_len = htons(skb->len - sizeof(*ip6));
		tcp->check = ~tcp_v6_check(len, &ip6->saddr, &ip6->daddr, 0);
		skb_shinfo(skb)->gso_type = SKB_GSO_TCPV6;
	} else {
		struct iphdr *ip = ip_hdr(skb);

		ip->tot_len = htons(skb->len);
		ip_send_check(ip);
		tcp->check = ~tcp_v4_check(len, ip->saddr, ip->daddr, 0);
		skb_shinfo(skb)->gso_type = SKB_GSO_TCPV4;
		if (session->id_fixed)
			skb_shinfo(skb)->gso_type |= SKB_GSO_TCP_FIXEDID;
	}
	if (tcp->cwr)
		skb_shinfo(skb)->gso_type |= SKB_GSO_TCP_ECN;
	skb_shinfo(skb)->gso_size = session->size;
	skb_shinfo(skb)->gso_segs = session->frames;
	skb->csum_start = (unsigned char *)tcp - skb->head;
	skb->csum_offset = offsetof(struct tcphdr, check);
	skb->ip_summed = CHECKSUM_PARTIAL;
}

static void dms_gro_close(struct dms_rxq *rxq, struct dms_gro_session *session)
{
	struct sk_buff *skb = session->skb;

	if (session->frames > 1) {
		dms_gro_finish_headers(session);
		dms_count(rxq, gro_packets, 1);
		dms_count(rxq, gro_bytes, skb->len);
		dms_count(rxq, gro_wire_packets, session->frames);
		dms_count(rxq, gro_wire_bytes, skb->len + (session->frames - 1) * session->headers);
	}
	hlist_del(&session->node);
	list_move(&session->list, &rxq->gro->free);
	dms_rx_deliver(rxq, skb);
}

void dms_gro_flush(struct dms_rxq *rxq, bool all)
{
	struct dms_gro_session *session, *next;

	list_for_each_entry_safe(session, next, &rxq->gro->open, list) {
		if (!all && time_before(jiffies, session->opened + DMS_GRO_HOLD))
			break;
		dms_gro_close(rxq, session);
	}
}

/* --- merging ------------------------------------------------------------------------------------------------------------ */

static bool dms_same_v4(const struct iphdr *a, const struct iphdr *b)
{
	return a->ihl == 5 && b->ihl == 5 && a->tos == b->tos && a->ttl == b->ttl && a->frag_off == b->frag_off &&
	       a->saddr == b->saddr && a->daddr == b->daddr;
}

static bool dms_same_v6(const struct ipv6hdr *a, const struct ipv6hdr *b)
{
	return *(__be32 *)a == *(__be32 *)b && a->nexthdr == b->nexthdr && a->hop_limit == b->hop_limit &&
	       ipv6_addr_equal(&a->saddr, &b->saddr) && ipv6_addr_equal(&a->daddr, &b->daddr);
}

static bool dms_same_flow(const struct dms_gro_session *session, const struct sk_buff *skb, const struct dms_wire *wire)
{
	const struct sk_buff *first = session->skb;
	const struct tcphdr *a, *b;

	if (session->hash != wire->hash || first->protocol != skb->protocol ||
	    session->l4 != wire->l4 - ETH_HLEN)
		return false;
	if (dms_is_v6(skb)) {
		const struct ipv6hdr *x = (void *)first->data, *y = (void *)skb->data;

		if (!ipv6_addr_equal(&x->saddr, &y->saddr) || !ipv6_addr_equal(&x->daddr, &y->daddr))
			return false;
	} else {
		const struct iphdr *x = (void *)first->data, *y = (void *)skb->data;

		if (x->saddr != y->saddr || x->daddr != y->daddr)
			return false;
	}
	a = dms_tcp(first, session);
	b = dms_tcp(skb, session);
	return a->source == b->source && a->dest == b->dest;
}

/* Ethernet headers are before skb->data, pulled by eth_type_trans(). */
static bool dms_same_ethernet(const struct sk_buff *a, const struct sk_buff *b)
{
	return !memcmp(skb_mac_header(a), skb_mac_header(b), ETH_HLEN);
}

static bool dms_id_follows(struct dms_gro_session *session, const struct sk_buff *skb)
{
	const struct iphdr *first = (void *)session->skb->data, *ip = (void *)skb->data;
	u16 id = ntohs(ip->id);

	if (session->frames == 1 && (first->frag_off & htons(IP_DF)) && id == ntohs(first->id))
		session->id_fixed = true;
	return session->id_fixed ? id == ntohs(first->id) : id == session->next_id;
}

static bool dms_may_merge(struct dms_gro_session *session, const struct sk_buff *skb, const struct dms_wire *wire)
{
	const struct sk_buff *first = session->skb;
	const struct tcphdr *a = dms_tcp(first, session), *b = dms_tcp(skb, session);
	unsigned int payload = skb->len - (wire->headers - ETH_HLEN);
	const __be32 flags = TCP_FLAG_CWR | TCP_FLAG_ECE | TCP_FLAG_URG;

	if (wire->headers != session->headers || payload > session->size ||
	    first->len + payload > GRO_LEGACY_MAX_SIZE - 1 || !dms_same_ethernet(first, skb))
		return false;
	if (dms_is_v6(skb) ? !dms_same_v6((void *)first->data, (void *)skb->data) :
			     !dms_same_v4((void *)first->data, (void *)skb->data) || !dms_id_follows(session, skb))
		return false;
	return ntohl(b->seq) == session->next_seq && a->ack_seq == b->ack_seq &&
	       ((tcp_flag_word(a) ^ tcp_flag_word(b)) & ~TCP_FLAG_PSH) == 0 &&
	       !(tcp_flag_word(b) & flags) &&
	       skb_shinfo(first)->nr_frags + skb_shinfo(skb)->nr_frags <= MAX_SKB_FRAGS &&
	       !memcmp(a + 1, b + 1, a->doff * 4 - sizeof(*a));
}

/* Moves @skb's fragments to the session's packet. Bytes that follow on in the same buffer lengthen the last fragment. */
static void dms_move_frags(struct sk_buff *to, struct sk_buff *from)
{
	struct skb_shared_info *a = skb_shinfo(to), *b = skb_shinfo(from);
	unsigned int i;

	for (i = 0; i < b->nr_frags; i++) {
		skb_frag_t *frag = &b->frags[i], *last = &a->frags[a->nr_frags - 1];

		if (skb_frag_netmem(last) == skb_frag_netmem(frag) &&
		    skb_frag_off(last) + skb_frag_size(last) == skb_frag_off(frag)) {
			skb_frag_size_add(last, skb_frag_size(frag));
			page_pool_unref_netmem(skb_frag_netmem(frag), 1);	/* the last fragment holds another */
		} else {
			a->frags[a->nr_frags++] = *frag;
		}
	}
	to->len += from->data_len;
	to->data_len += from->data_len;
	to->truesize += from->truesize - SKB_TRUESIZE(skb_end_offset(from));
	b->nr_frags = 0;
	from->len -= from->data_len;
	from->data_len = 0;
}

static struct hlist_head *dms_gro_bucket(struct dms_gro *gro, const struct dms_wire *wire)
{
	return &gro->buckets[wire->hash % DMS_GRO_BUCKETS];
}

static void dms_gro_open(struct dms_rxq *rxq, struct sk_buff *skb, const struct dms_wire *wire)
{
	unsigned int payload = skb->len - (wire->headers - ETH_HLEN);
	struct dms_gro *gro = rxq->gro;
	struct dms_gro_session *session;

	if (list_empty(&gro->free))
		dms_gro_close(rxq, list_first_entry(&gro->open, struct dms_gro_session, list));
	session = list_first_entry(&gro->free, struct dms_gro_session, list);
	list_move_tail(&session->list, &gro->open);
	hlist_add_head(&session->node, dms_gro_bucket(gro, wire));
	session->skb = skb;
	session->opened = jiffies;
	session->hash = wire->hash;
	session->l4 = wire->l4 - ETH_HLEN;
	session->headers = wire->headers;
	session->size = payload;
	session->frames = 1;
	session->id_fixed = false;
	session->next_seq = ntohl(dms_tcp(skb, session)->seq) + payload;
	if (!dms_is_v6(skb))
		session->next_id = ntohs(((struct iphdr *)skb->data)->id) + 1;
}

static struct dms_gro_session *dms_gro_find(struct dms_rxq *rxq, const struct sk_buff *skb, const struct dms_wire *wire)
{
	struct dms_gro_session *session;

	hlist_for_each_entry(session, dms_gro_bucket(rxq->gro, wire), node)
		if (dms_same_flow(session, skb, wire))
			return session;
	return NULL;
}

/* Plain TCP straight over IP over Ethernet, verified, and its payload in fragments. */
static bool dms_is_tcp(const struct sk_buff *skb, const struct dms_wire *wire)
{
	unsigned int l4 = wire->l4 - ETH_HLEN;

	if (!wire->headers || skb->ip_summed != CHECKSUM_UNNECESSARY || skb_headlen(skb) != wire->headers - ETH_HLEN)
		return false;
	if (skb->protocol == htons(ETH_P_IP))
		return l4 == sizeof(struct iphdr) && ((struct iphdr *)skb->data)->protocol == IPPROTO_TCP &&
		       skb->len == ntohs(((struct iphdr *)skb->data)->tot_len);
	return skb->protocol == htons(ETH_P_IPV6) && l4 == sizeof(struct ipv6hdr) &&
	       ((struct ipv6hdr *)skb->data)->nexthdr == IPPROTO_TCP &&
	       skb->len == ntohs(((struct ipv6hdr *)skb->data)->payload_len) + sizeof(struct ipv6hdr);
}

/* True: @skb is merged, or the beginning of a packet to come. False: deliver it; what came before it went first. */
bool dms_gro_receive(struct dms_rxq *rxq, struct sk_buff *skb, const struct dms_wire *wire)
{
	const __be32 plain = TCP_FLAG_ACK | TCP_FLAG_PSH;
	struct dms_gro_session *session;
	const struct tcphdr *tcp;
	unsigned int payload;
	bool last;

	if (!dms_is_tcp(skb, wire))
		return false;
	session = dms_gro_find(rxq, skb, wire);
	tcp = (struct tcphdr *)(skb->data + wire->l4 - ETH_HLEN);
	payload = skb->len - (wire->headers - ETH_HLEN);
	last = tcp->psh;
	if (!payload || (tcp_flag_word(tcp) & (TCP_FLAG_ACK | TCP_FLAG_RST | TCP_FLAG_SYN | TCP_FLAG_FIN |
					       TCP_FLAG_URG | TCP_FLAG_CWR) & ~plain) || !tcp->ack) {
		if (session)
			dms_gro_close(rxq, session);
		return false;
	}
	if (session && !dms_may_merge(session, skb, wire)) {
		dms_gro_close(rxq, session);
		session = NULL;
	}
	if (!session) {
		if (last)
			return false;
		dms_gro_open(rxq, skb, wire);
		return true;
	}
	dms_tcp(session->skb, session)->psh |= last;
	dms_move_frags(session->skb, skb);
	session->frames++;
	session->next_seq += payload;
	session->next_id++;
	last |= payload < session->size;
	napi_consume_skb(skb, 1);
	if (last)
		dms_gro_close(rxq, session);
	return true;
}
