// SPDX-License-Identifier: GPL-2.0
/*
 * Which Rx queue takes a frame: the first ntuple rule that matches, else the RSS hash through the
 * indirection table. rss.c and ntuple.c keep the tables; this file reads them, under RCU, once a
 * frame.
 */
#include <linux/slab.h>
#include <linux/unaligned.h>

#include "steer.h"

/*
 * Toeplitz: every set bit of the input adds (xor) the 32 key bits that start at its position. The
 * contributions of the sixteen values of each nibble are worked out once a key, which leaves two
 * look-ups a byte.
 */
void dms_rss_set_key(struct dms_rss *rss, const u8 *key)
{
	unsigned int nibble, bit, value;

	memcpy(rss->key, key, DMS_RSS_KEY);
	memset(rss->part, 0, sizeof(rss->part));
	for (nibble = 0; nibble < ARRAY_SIZE(rss->part); nibble++) {
		for (bit = 0; bit < 4; bit++) {
			unsigned int at = nibble * 4 + bit;
			const u8 *from = rss->key + at / 8;
			u64 five = ((u64)get_unaligned_be32(from) << 8) | from[4];
			u32 window = five >> (8 - at % 8);

			for (value = 0; value < 16; value++)
				if (value & (8 >> bit))
					rss->part[nibble][value] ^= window;
		}
	}
}

static u32 dms_toeplitz(const struct dms_rss *rss, const u8 *input, unsigned int len)
{
	unsigned int i;
	u32 hash = 0;

	for (i = 0; i < len; i++)
		hash ^= rss->part[2 * i][input[i] >> 4] ^ rss->part[2 * i + 1][input[i] & 15];
	return hash;
}

/* Appends the chosen ones of two fields, made alike for both directions if @xfrm asks for it. */
static u8 *dms_hash_pair(u8 *at, const void *source, const void *destination, unsigned int len,
			 bool use_source, bool use_destination, u8 xfrm)
{
	const u8 *src = source, *dst = destination;
	unsigned int i;

	if (xfrm && use_source && use_destination) {
		for (i = 0; i < len; i++) {
			at[len + i] = src[i] ^ dst[i];
#ifdef RXH_XFRM_SYM_OR_XOR
			at[i] = xfrm & RXH_XFRM_SYM_OR_XOR ? src[i] | dst[i] : src[i] ^ dst[i];
#else
			at[i] = src[i] ^ dst[i];
#endif
		}
		return at + 2 * len;
	}
	if (use_source) {
		memcpy(at, src, len);
		at += len;
	}
	if (use_destination) {
		memcpy(at, dst, len);
		at += len;
	}
	return at;
}

static bool dms_is_ipv4(const struct dms_flow *flow)
{
	return flow->keys.control.addr_type == FLOW_DISSECTOR_KEY_IPV4_ADDRS;
}

static bool dms_is_ipv6(const struct dms_flow *flow)
{
	return flow->keys.control.addr_type == FLOW_DISSECTOR_KEY_IPV6_ADDRS;
}

static enum dms_traffic dms_traffic(const struct dms_flow *flow)
{
	bool tcp = flow->keys.basic.ip_proto == IPPROTO_TCP;

	if (dms_is_ipv4(flow))
		return !flow->l4 ? DMS_IP4 : tcp ? DMS_TCP4 : DMS_UDP4;
	return !flow->l4 ? DMS_IP6 : tcp ? DMS_TCP6 : DMS_UDP6;
}

static u32 dms_hash(const struct dms_rss *rss, const struct dms_flow *flow,
		    enum pkt_hash_types *type)
{
	const struct flow_dissector_key_addrs *addrs = &flow->keys.addrs;
	u32 fields = rss->fields[dms_traffic(flow)];
	u8 input[DMS_HASH_INPUT], *end = input;

	if (dms_is_ipv4(flow))
		end = dms_hash_pair(end, &addrs->v4addrs.src, &addrs->v4addrs.dst,
				    sizeof(addrs->v4addrs.src), fields & RXH_IP_SRC,
				    fields & RXH_IP_DST, rss->xfrm);
	else
		end = dms_hash_pair(end, &addrs->v6addrs.src, &addrs->v6addrs.dst,
				    sizeof(addrs->v6addrs.src), fields & RXH_IP_SRC,
				    fields & RXH_IP_DST, rss->xfrm);
	if (end != input)
		*type = PKT_HASH_TYPE_L3;
	if (flow->l4 && (fields & (RXH_L4_B_0_1 | RXH_L4_B_2_3))) {
		end = dms_hash_pair(end, &flow->keys.ports.src, &flow->keys.ports.dst,
				    sizeof(flow->keys.ports.src), fields & RXH_L4_B_0_1,
				    fields & RXH_L4_B_2_3, rss->xfrm);
		*type = PKT_HASH_TYPE_L4;
	}
	return dms_toeplitz(rss, input, end - input);
}

static bool dms_rule_matches(const struct dms_rule *rule, const struct dms_flow *flow,
			     const struct dms_tuple *tuple)
{
	unsigned int i;
	__be32 differ;

	if (rule->n_proto != flow->keys.basic.n_proto)
		return false;
	if (rule->ip_proto && rule->ip_proto != flow->keys.basic.ip_proto)
		return false;
	if (rule->mask.ports && !flow->l4)
		return false;
	differ = (tuple->ports & rule->mask.ports) ^ rule->value.ports;
	for (i = 0; i < 4; i++) {
		differ |= (tuple->src[i] & rule->mask.src[i]) ^ rule->value.src[i];
		differ |= (tuple->dst[i] & rule->mask.dst[i]) ^ rule->value.dst[i];
	}
	return !differ;
}

static const struct dms_rule *dms_rule_lookup(const struct dms_port *port,
					      const struct dms_flow *flow)
{
	const struct flow_dissector_key_addrs *addrs = &flow->keys.addrs;
	const struct dms_steer *steer = port->steer;
	struct dms_tuple tuple = { .ports = flow->keys.ports.ports };
	const struct dms_rule *rule;

	if (list_empty(&steer->rules))
		return NULL;
	if (port->personality->ntuple_gates_rules && !(port->dev->features & NETIF_F_NTUPLE))
		return NULL;
	if (dms_is_ipv4(flow)) {
		tuple.src[0] = addrs->v4addrs.src;
		tuple.dst[0] = addrs->v4addrs.dst;
	} else {
		memcpy(tuple.src, &addrs->v6addrs.src, sizeof(tuple.src));
		memcpy(tuple.dst, &addrs->v6addrs.dst, sizeof(tuple.dst));
	}
	list_for_each_entry_rcu(rule, &steer->rules, list)
		if (dms_rule_matches(rule, flow, &tuple))
			return rule;
	return NULL;
}

u16 dms_steer(struct dms_port *port, const struct dms_flow *flow, u32 *hash,
	      enum pkt_hash_types *type)
{
	const struct dms_steer *steer = port->steer;
	const struct dms_rss *rss = NULL;
	const struct dms_rule *rule;
	u32 queue = 0;

	*hash = 0;
	*type = PKT_HASH_TYPE_NONE;
	if (!dms_is_ipv4(flow) && !dms_is_ipv6(flow))
		return 0;

	rcu_read_lock();
	rule = dms_rule_lookup(port, flow);
	if (rule && rule->spec.ring_cookie == RX_CLS_FLOW_DISC) {
		queue = DMS_STEER_DISCARD;
		goto out;
	}
	/* A context outlives its rules, but both may have been removed just now. */
	if (rule && (rule->spec.flow_type & FLOW_RSS))
		rss = rcu_dereference(steer->rss[rule->context]);
	if (!rss)
		rss = rcu_dereference(steer->rss[0]);
	*hash = dms_hash(rss, flow, type);
	if (!rule || (rule->spec.flow_type & FLOW_RSS))
		queue = rss->table[*hash % DMS_RSS_TABLE];
	if (rule)
		queue += rule->spec.ring_cookie;
	/* Tables and rules name existing queues, but do not change in one step with their count. */
	queue %= READ_ONCE(steer->channels);
out:
	rcu_read_unlock();
	return queue;
}

int dms_steer_init(struct dms_port *port)
{
	struct dms_steer *steer = kzalloc(sizeof(*steer), GFP_KERNEL);
	struct dms_rss *rss = dms_rss_default(port);

	if (!steer || !rss) {
		kfree(steer);
		kfree(rss);
		return -ENOMEM;
	}
	mutex_init(&steer->lock);
	INIT_LIST_HEAD(&steer->rules);
	steer->channels = port->channels;
	RCU_INIT_POINTER(steer->rss[0], rss);
	port->steer = steer;
	return 0;
}

void dms_steer_free(struct dms_port *port)
{
	struct dms_steer *steer = port->steer;
	unsigned int i;

	if (!steer)
		return;
	mutex_lock(&steer->lock);
	dms_rules_flush(steer);
	for (i = 0; i < DMS_RSS_CONTEXTS; i++)
		dms_rss_publish(steer, i, NULL);
	mutex_unlock(&steer->lock);
	mutex_destroy(&steer->lock);
	port->steer = NULL;
	kfree(steer);
}

void dms_steer_channels(struct dms_port *port)
{
	struct dms_steer *steer = port->steer;

	mutex_lock(&steer->lock);
	/* The core has made sure that no table a user has set names a queue that goes. */
	if (!netif_is_rxfh_configured(port->dev))
		dms_rss_respread(port);
	WRITE_ONCE(steer->channels, port->channels);
	mutex_unlock(&steer->lock);
}

void dms_steer_features(struct dms_port *port, netdev_features_t features)
{
	struct dms_steer *steer = port->steer;

	if (!port->personality->ntuple_off_flushes || (features & NETIF_F_NTUPLE))
		return;
	mutex_lock(&steer->lock);
	dms_rules_flush(steer);
	mutex_unlock(&steer->lock);
}
