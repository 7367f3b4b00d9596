// SPDX-License-Identifier: GPL-2.0
/*
 * ntuple rules (ethtool -N DEV flow-type ...): TCP, UDP or any IP over IPv4 and IPv6, any bits of
 * the addresses and ports, to a queue, to an RSS context, or dropped. The lowest location that
 * matches wins.
 */
#include <linux/slab.h>

#include "steer.h"

static struct dms_rule *dms_rule_find(const struct dms_steer *steer, u32 location)
{
	struct dms_rule *rule;

	list_for_each_entry(rule, &steer->rules, list)
		if (rule->spec.location == location)
			return rule;
	return NULL;
}

/* The rule that matches exactly what @like does. */
static struct dms_rule *dms_rule_twin(const struct dms_steer *steer, const struct dms_rule *like)
{
	struct dms_rule *rule;

	list_for_each_entry(rule, &steer->rules, list)
		if (rule->n_proto == like->n_proto && rule->ip_proto == like->ip_proto &&
		    !memcmp(&rule->value, &like->value, sizeof(like->value)) &&
		    !memcmp(&rule->mask, &like->mask, sizeof(like->mask)))
			return rule;
	return NULL;
}

static void dms_rule_remove(struct dms_steer *steer, struct dms_rule *rule)
{
	list_del_rcu(&rule->list);
	steer->rule_count--;
	kfree_rcu(rule, rcu);
}

void dms_rules_flush(struct dms_steer *steer)
{
	struct dms_rule *rule, *next;

	list_for_each_entry_safe(rule, next, &steer->rules, list)
		dms_rule_remove(steer, rule);
}

bool dms_rules_use_context(const struct dms_steer *steer, u32 context)
{
	const struct dms_rule *rule;

	list_for_each_entry(rule, &steer->rules, list)
		if ((rule->spec.flow_type & FLOW_RSS) && rule->context == context)
			return true;
	return false;
}

/* --- what a rule matches --- */

static void dms_match_v4(struct dms_tuple *tuple, __be32 src, __be32 dst, __be16 sport,
			 __be16 dport)
{
	tuple->src[0] = src;
	tuple->dst[0] = dst;
	tuple->sport = sport;
	tuple->dport = dport;
}

static void dms_match_v6(struct dms_tuple *tuple, const __be32 *src, const __be32 *dst,
			 __be16 sport, __be16 dport)
{
	memcpy(tuple->src, src, sizeof(tuple->src));
	memcpy(tuple->dst, dst, sizeof(tuple->dst));
	tuple->sport = sport;
	tuple->dport = dport;
}

/* A protocol is matched whole or not at all. */
static int dms_match_protocol(struct dms_rule *rule, u8 protocol, u8 mask)
{
	if (mask && (mask != 0xff || !protocol))
		return -EOPNOTSUPP;
	rule->ip_proto = protocol & mask;
	return 0;
}

/* From rule->spec, what the fast path compares. -EOPNOTSUPP: this NIC cannot match that. */
static int dms_rule_compile(struct dms_rule *rule)
{
	const union ethtool_flow_union *value = &rule->spec.h_u, *mask = &rule->spec.m_u;
	u32 type = rule->spec.flow_type & ~FLOW_RSS;
	unsigned int i;
	int err = 0;

	switch (type) {
	case TCP_V4_FLOW:
	case UDP_V4_FLOW:
		if (mask->tcp_ip4_spec.tos)
			return -EOPNOTSUPP;
		rule->n_proto = htons(ETH_P_IP);
		rule->ip_proto = type == TCP_V4_FLOW ? IPPROTO_TCP : IPPROTO_UDP;
		dms_match_v4(&rule->value, value->tcp_ip4_spec.ip4src, value->tcp_ip4_spec.ip4dst,
			     value->tcp_ip4_spec.psrc, value->tcp_ip4_spec.pdst);
		dms_match_v4(&rule->mask, mask->tcp_ip4_spec.ip4src, mask->tcp_ip4_spec.ip4dst,
			     mask->tcp_ip4_spec.psrc, mask->tcp_ip4_spec.pdst);
		break;
	case TCP_V6_FLOW:
	case UDP_V6_FLOW:
		if (mask->tcp_ip6_spec.tclass)
			return -EOPNOTSUPP;
		rule->n_proto = htons(ETH_P_IPV6);
		rule->ip_proto = type == TCP_V6_FLOW ? IPPROTO_TCP : IPPROTO_UDP;
		dms_match_v6(&rule->value, value->tcp_ip6_spec.ip6src, value->tcp_ip6_spec.ip6dst,
			     value->tcp_ip6_spec.psrc, value->tcp_ip6_spec.pdst);
		dms_match_v6(&rule->mask, mask->tcp_ip6_spec.ip6src, mask->tcp_ip6_spec.ip6dst,
			     mask->tcp_ip6_spec.psrc, mask->tcp_ip6_spec.pdst);
		break;
	case IPV4_USER_FLOW:
		if (mask->usr_ip4_spec.tos || mask->usr_ip4_spec.l4_4_bytes ||
		    mask->usr_ip4_spec.ip_ver || value->usr_ip4_spec.ip_ver != ETH_RX_NFC_IP4)
			return -EOPNOTSUPP;
		rule->n_proto = htons(ETH_P_IP);
		err = dms_match_protocol(rule, value->usr_ip4_spec.proto, mask->usr_ip4_spec.proto);
		dms_match_v4(&rule->value, value->usr_ip4_spec.ip4src, value->usr_ip4_spec.ip4dst,
			     0, 0);
		dms_match_v4(&rule->mask, mask->usr_ip4_spec.ip4src, mask->usr_ip4_spec.ip4dst,
			     0, 0);
		break;
	case IPV6_USER_FLOW:
		if (mask->usr_ip6_spec.tclass || mask->usr_ip6_spec.l4_4_bytes)
			return -EOPNOTSUPP;
		rule->n_proto = htons(ETH_P_IPV6);
		err = dms_match_protocol(rule, value->usr_ip6_spec.l4_proto,
					 mask->usr_ip6_spec.l4_proto);
		dms_match_v6(&rule->value, value->usr_ip6_spec.ip6src, value->usr_ip6_spec.ip6dst,
			     0, 0);
		dms_match_v6(&rule->mask, mask->usr_ip6_spec.ip6src, mask->usr_ip6_spec.ip6dst,
			     0, 0);
		break;
	default:
		/* FLOW_EXT and FLOW_MAC_EXT too: no VLAN tags, no MAC addresses. */
		return -EOPNOTSUPP;
	}
	/* So that equal matches are equal bytes, and the fast path masks only the frame's side. */
	for (i = 0; i < 4; i++) {
		rule->value.src[i] &= rule->mask.src[i];
		rule->value.dst[i] &= rule->mask.dst[i];
	}
	rule->value.ports &= rule->mask.ports;
	return err;
}

/* --- where it steers to, and its place --- */

static int dms_rule_check_action(const struct dms_port *port, const struct dms_rule *rule)
{
	const struct dms_rss *rss;
	unsigned int i, last = 0;

	if (rule->spec.flow_type & FLOW_RSS) {
		rss = dms_rss_context(port->steer, rule->context);
		if (!rss)
			return -EINVAL;
		for (i = 0; i < DMS_RSS_TABLE; i++)
			last = max_t(unsigned int, last, rss->table[i]);
	}
	if (rule->spec.ring_cookie == RX_CLS_FLOW_DISC)
		return 0;
	/* Virtual functions and RX_CLS_FLOW_WAKE, in the upper bits, are out of range too. */
	if (rule->spec.ring_cookie >= port->channels ||
	    last + rule->spec.ring_cookie >= port->channels)
		return -EINVAL;
	return 0;
}

/* Resolves the rule's location. @old: the rule it takes the place of, if any. */
static int dms_rule_locate(const struct dms_port *port, struct dms_rule *rule,
			   struct dms_rule **old)
{
	const struct dms_personality *personality = port->personality;
	const struct dms_steer *steer = port->steer;
	const struct dms_rule *each;
	u32 location = 0;

	*old = NULL;
	if (rule->spec.location == RX_CLS_LOC_ANY &&
	    personality->locations != DMS_LOC_EXPLICIT_ONLY) {
		*old = dms_rule_twin(steer, rule);
		if (*old) {
			rule->spec.location = (*old)->spec.location;
			return personality->refuses_duplicates ? -EEXIST : 0;
		}
		list_for_each_entry(each, &steer->rules, list)
			if (each->spec.location == location)
				location++;
		rule->spec.location = location;
		return location < personality->max_rules ? 0 : -ENOSPC;
	}
	if (personality->locations == DMS_LOC_ANY_ONLY)
		return -EINVAL;
	if ((rule->spec.location & RX_CLS_LOC_SPECIAL) && personality->locations == DMS_LOC_BOTH)
		return -EINVAL;
	/* To mlx5, RX_CLS_LOC_ANY is a location like any other, and too large. */
	if (rule->spec.location >= personality->max_rules)
		return -ENOSPC;
	*old = dms_rule_find(steer, rule->spec.location);
	return *old && !personality->silent_replace ? -EEXIST : 0;
}

static void dms_rule_link(struct dms_steer *steer, struct dms_rule *rule, struct dms_rule *old)
{
	struct list_head *after = &steer->rules;
	struct dms_rule *each;

	if (old) {
		list_replace_rcu(&old->list, &rule->list);
		kfree_rcu(old, rcu);
		return;
	}
	list_for_each_entry(each, &steer->rules, list) {
		if (each->spec.location > rule->spec.location)
			break;
		after = &each->list;
	}
	list_add_rcu(&rule->list, after);
	steer->rule_count++;
}

static int dms_rule_insert(struct dms_port *port, struct ethtool_rxnfc *info)
{
	struct dms_steer *steer = port->steer;
	struct dms_rule *rule, *old;
	int err;

	if (port->personality->ntuple_gates_rules && !(port->dev->features & NETIF_F_NTUPLE))
		return -EOPNOTSUPP;
	rule = kzalloc(sizeof(*rule), GFP_KERNEL);
	if (!rule)
		return -ENOMEM;
	rule->spec = info->fs;
	if (info->fs.flow_type & FLOW_RSS)
		rule->context = info->rss_context;
	err = dms_rule_compile(rule);
	if (err)
		goto free;
	err = dms_rule_check_action(port, rule);
	if (err)
		goto free;
	err = dms_rule_locate(port, rule, &old);
	if (err)
		goto free;
	/* An errno of its own, so that a test knows the knob was at work. */
	if (atomic_dec_if_positive(&port->refuse_rules) >= 0) {
		err = -EIO;
		goto free;
	}
	info->fs.location = rule->spec.location;
	dms_rule_link(steer, rule, old);
	return 0;
free:
	kfree(rule);
	return err;
}

static int dms_rule_delete(struct dms_steer *steer, u32 location)
{
	struct dms_rule *rule = dms_rule_find(steer, location);

	if (!rule)
		return -ENOENT;
	dms_rule_remove(steer, rule);
	return 0;
}

/* --- ethtool --- */

static int dms_rule_get(const struct dms_steer *steer, struct ethtool_rxnfc *info)
{
	const struct dms_rule *rule = dms_rule_find(steer, info->fs.location);

	if (!rule)
		return -ENOENT;
	info->fs = rule->spec;
	if (rule->spec.flow_type & FLOW_RSS) {
		info->rss_context = rule->context;
		/*
		 * The core looks for FLOW_RSS here, and not in fs, when it reckons the highest
		 * queue that rules use (ethtool_check_max_channel()). It has no table of context 0
		 * at hand and would warn.
		 */
		if (rule->context)
			info->flow_type = rule->spec.flow_type;
	}
	return 0;
}

static int dms_rules_list(const struct dms_steer *steer, const struct dms_personality *personality,
			  struct ethtool_rxnfc *info, u32 *locations)
{
	const struct dms_rule *rule;
	u32 count = 0;

	if (steer->rule_count > info->rule_cnt)
		return -EMSGSIZE;
	list_for_each_entry(rule, &steer->rules, list)
		locations[count++] = rule->spec.location;
	info->rule_cnt = count;
	info->data = personality->max_rules;
	return 0;
}

int dms_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *info, u32 *locations)
{
	struct dms_port *port = dms_port(dev);
	const struct dms_personality *personality = port->personality;
	struct dms_steer *steer = port->steer;
	int err = 0;

	mutex_lock(&steer->lock);
	switch (info->cmd) {
#ifndef DMS_HAVE_RX_RING_COUNT
	case ETHTOOL_GRXRINGS:
		info->data = port->channels;
		break;
#endif
	case ETHTOOL_GRXCLSRLCNT:
		info->rule_cnt = steer->rule_count;
		/* mlx5 does not say how many there may be here, only with the list. */
		if (personality->locations != DMS_LOC_EXPLICIT_ONLY)
			info->data = personality->max_rules | RX_CLS_LOC_SPECIAL;
		break;
	case ETHTOOL_GRXCLSRULE:
		err = dms_rule_get(steer, info);
		break;
	case ETHTOOL_GRXCLSRLALL:
		err = dms_rules_list(steer, personality, info, locations);
		break;
	default:
		err = -EOPNOTSUPP;
	}
	mutex_unlock(&steer->lock);

#ifndef DMS_HAVE_RXFH_FIELDS
	if (info->cmd == ETHTOOL_GRXFH) {
		u32 context = info->flow_type & FLOW_RSS ? info->rss_context : 0;
		u32 fields = 0;

		err = dms_rss_get_fields(port, context, info->flow_type & ~FLOW_RSS, &fields);
		info->data = fields;
	}
#endif
	return err;
}

int dms_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *info)
{
	struct dms_port *port = dms_port(dev);
	struct dms_steer *steer = port->steer;
	int err;

#ifndef DMS_HAVE_RXFH_FIELDS
	if (info->cmd == ETHTOOL_SRXFH) {
		u32 context = info->flow_type & FLOW_RSS ? info->rss_context : 0;

		return dms_rss_set_fields(port, context, info->flow_type & ~FLOW_RSS, info->data,
					  NULL);
	}
#endif
	mutex_lock(&steer->lock);
	switch (info->cmd) {
	case ETHTOOL_SRXCLSRLINS:
		err = dms_rule_insert(port, info);
		break;
	case ETHTOOL_SRXCLSRLDEL:
		err = dms_rule_delete(steer, info->fs.location);
		break;
	default:
		err = -EOPNOTSUPP;
	}
	mutex_unlock(&steer->lock);
	return err;
}
