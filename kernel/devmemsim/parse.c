// SPDX-License-Identifier: GPL-2.0
/*
 * The NIC's parser: the flow a frame belongs to, and where its payload starts. It reads the bytes
 * as they are on the wire, from the Ethernet header on, so it does not matter what the sender's
 * stack thinks of the skb.
 */
#include <linux/if_ether.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <net/net_namespace.h>

#include "devmemsim.h"

/* Bytes up to the end of the TCP or UDP header at @l4; 0: it is not all in the linear part. */
static unsigned int dms_header_end(const struct sk_buff *frame, unsigned int l4, u8 protocol)
{
	unsigned int end = l4 + sizeof(struct udphdr);
	const struct tcphdr *tcp;

	if (protocol == IPPROTO_TCP) {
		if (l4 + sizeof(*tcp) > skb_headlen(frame))
			return 0;
		tcp = (const struct tcphdr *)(frame->data + l4);
		if (tcp->doff * 4 < sizeof(*tcp))
			return 0;
		end = l4 + tcp->doff * 4;
	}
	return end <= skb_headlen(frame) ? end : 0;
}

/* Where the IP header is, behind any VLAN tags; 0: behind something else (PPPoE, MPLS), or before extension headers. */
static unsigned int dms_ip_offset(const struct sk_buff *frame, unsigned int l4)
{
	unsigned int l3 = ETH_HLEN;
	__be16 proto = ((const struct ethhdr *)frame->data)->h_proto;

	while (eth_type_vlan(proto) && l3 + VLAN_HLEN <= l4) {
		proto = ((const struct vlan_hdr *)(frame->data + l3))->h_vlan_encapsulated_proto;
		l3 += VLAN_HLEN;
	}
	if (proto == htons(ETH_P_IP) && l3 + sizeof(struct iphdr) <= l4)
		return l3;
	return proto == htons(ETH_P_IPV6) && l3 + sizeof(struct ipv6hdr) == l4 ? l3 : 0;
}

void dms_parse(const struct sk_buff *frame, struct dms_flow *flow)
{
	const struct flow_dissector_key_control *control = &flow->keys.control;
	const struct ethhdr *eth = (const struct ethhdr *)frame->data;
	unsigned int end;
	u8 protocol;

	memset(flow, 0, sizeof(*flow));
	/*
	 * Given the bytes instead of the skb, the dissector takes VLAN tags as they stand in the
	 * frame, and neither skb->protocol nor the network header can mislead it. It stays within
	 * the linear part.
	 */
	if (skb_headlen(frame) < ETH_HLEN ||
	    !__skb_flow_dissect(dev_net(frame->dev), NULL, &flow_keys_dissector, &flow->keys,
				frame->data, eth->h_proto, ETH_HLEN, skb_headlen(frame),
				FLOW_DISSECTOR_F_STOP_AT_ENCAP)) {
		memset(flow, 0, sizeof(*flow));
		return;
	}
	if (control->addr_type != FLOW_DISSECTOR_KEY_IPV4_ADDRS &&
	    control->addr_type != FLOW_DISSECTOR_KEY_IPV6_ADDRS)
		return;

	flow->fragment = control->flags & FLOW_DIS_IS_FRAGMENT;
	protocol = flow->keys.basic.ip_proto;
	if (flow->fragment || (control->flags & FLOW_DIS_ENCAPSULATION) ||
	    (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP))
		return;
	end = dms_header_end(frame, control->thoff, protocol);
	if (!end)
		return;
	flow->l3 = dms_ip_offset(frame, control->thoff);
	if (!flow->l3)
		return;
	flow->l4 = control->thoff;
	flow->headers = end;
}
