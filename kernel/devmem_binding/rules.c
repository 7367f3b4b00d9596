// SPDX-License-Identifier: GPL-2.0
/*
 * Steering rules (ntuple). The kernel has no netlink for them, so the driver is called as the ethtool ioctl calls it.
 *
 *   1. A new rule's match must be nobody's yet: with some drivers the newer of two takes the older one's place.
 *   2. Where the driver chooses locations (RX_CLS_LOC_SPECIAL) it is left to. Elsewhere the first free one is taken, and the rule
 *      inserted before anybody else can: mlx5 replaces what lies at a location without a word.
 *   3. What the driver tells of the rule afterwards is kept. A rule is deleted only if the driver still tells the same.
 */
#include <linux/bitmap.h>
#include <linux/in.h>
#include <linux/pm_runtime.h>
#include <linux/slab.h>
#include <linux/socket.h>

#include "binding.h"
#include "compat.h"

/* Locations beyond this are not looked at in searching for a free one. */
#define DMB_LOCATIONS_MAX	(1 << 20)

/*
 * Makes the device ready for an ethtool operation, as the core does it (net/ethtool/ioctl.c): under rtnl, the device's own lock
 * inside. -ENODEV: it is on its way out, or suspended for good.
 */
int dmb_device_begin(struct net_device *dev)
{
	int err = -ENODEV;

	ASSERT_RTNL();
	netdev_lock_ops(dev);
	if (dev->dev.parent)
		pm_runtime_get_sync(dev->dev.parent);
	if (!netif_device_present(dev) || dev->reg_state != NETREG_REGISTERED)
		goto err_put;
	err = dev->ethtool_ops->begin ? dev->ethtool_ops->begin(dev) : 0;
	if (err < 0)
		goto err_put;
	return 0;
err_put:
	if (dev->dev.parent)
		pm_runtime_put(dev->dev.parent);
	netdev_unlock_ops(dev);
	return err;
}

void dmb_device_end(struct net_device *dev)
{
	if (dev->ethtool_ops->complete)
		dev->ethtool_ops->complete(dev);
	if (dev->dev.parent)
		pm_runtime_put(dev->dev.parent);
	netdev_unlock_ops(dev);
}

/* --- what the driver tells --- */

struct dmb_table {
	u32 *locations;
	u32 count;
	u32 size;	/* of the driver's table */
	bool any;	/* the driver chooses locations */
};

static int dmb_table_read(struct net_device *dev, struct dmb_table *table)
{
	struct ethtool_rxnfc info = { .cmd = ETHTOOL_GRXCLSRLCNT };
	int err;

	err = dev->ethtool_ops->get_rxnfc(dev, &info, NULL);
	if (err)
		return err;
	table->any = info.data & RX_CLS_LOC_SPECIAL;
	table->count = info.rule_cnt;
	table->locations = kvcalloc(max(table->count, 1), sizeof(u32), GFP_KERNEL);
	if (!table->locations)
		return -ENOMEM;
	info = (struct ethtool_rxnfc){ .cmd = ETHTOOL_GRXCLSRLALL, .rule_cnt = table->count };
	err = dev->ethtool_ops->get_rxnfc(dev, &info, table->locations);
	if (err < 0) {
		kvfree(table->locations);
		return err;
	}
	table->count = min(table->count, info.rule_cnt);
	table->size = min_t(u64, info.data, DMB_LOCATIONS_MAX);
	return 0;
}

static int dmb_rule_read(struct net_device *dev, u32 location, struct ethtool_rx_flow_spec *spec)
{
	struct ethtool_rxnfc info = { .cmd = ETHTOOL_GRXCLSRULE, .fs.location = location };
	int err;

	err = dev->ethtool_ops->get_rxnfc(dev, &info, NULL);
	if (err >= 0)
		*spec = info.fs;
	return min(err, 0);
}

static int dmb_rule_erase(struct net_device *dev, u32 location)
{
	struct ethtool_rxnfc info = { .cmd = ETHTOOL_SRXCLSRLDEL, .fs.location = location };

	return dev->ethtool_ops->set_rxnfc(dev, &info);
}

/* --- what a rule matches --- */

/* The bytes of a flow type's union that a match consists of; 0: of a type that is never made here. */
static size_t dmb_match_size(u32 flow_type)
{
	switch (flow_type) {
	case TCP_V4_FLOW:
	case UDP_V4_FLOW:
		return offsetofend(struct ethtool_tcpip4_spec, tos);
	case TCP_V6_FLOW:
	case UDP_V6_FLOW:
		return offsetofend(struct ethtool_tcpip6_spec, tclass);
	}
	return 0;
}

/* Whether two rules match the same packets. Bits outside of a mask are whatever the driver leaves there. */
static bool dmb_match_same(const struct ethtool_rx_flow_spec *a, const struct ethtool_rx_flow_spec *b)
{
	const u8 *value_a = a->h_u.hdata, *value_b = b->h_u.hdata, *mask_a = a->m_u.hdata, *mask_b = b->m_u.hdata;
	size_t i, size = dmb_match_size(a->flow_type);

	if (!size || a->flow_type != b->flow_type)
		return false;
	for (i = 0; i < size; i++)
		if (mask_a[i] != mask_b[i] || (value_a[i] & mask_a[i]) != (value_b[i] & mask_b[i]))
			return false;
	return true;
}

static bool dmb_rule_same(const struct ethtool_rx_flow_spec *a, const struct ethtool_rx_flow_spec *b)
{
	return dmb_match_same(a, b) && a->ring_cookie == b->ring_cookie;
}

static void dmb_match_v4(struct ethtool_rx_flow_spec *spec, const struct devmem_binding_flow *flow)
{
	struct ethtool_tcpip4_spec *value = &spec->h_u.tcp_ip4_spec, *mask = &spec->m_u.tcp_ip4_spec;

	memcpy(&value->ip4src, flow->src, sizeof(value->ip4src));
	memcpy(&value->ip4dst, flow->dst, sizeof(value->ip4dst));
	value->psrc = flow->src_port;
	value->pdst = flow->dst_port;
	mask->ip4src = value->ip4src ? htonl(U32_MAX) : 0;
	mask->ip4dst = value->ip4dst ? htonl(U32_MAX) : 0;
	mask->psrc = value->psrc ? htons(U16_MAX) : 0;
	mask->pdst = value->pdst ? htons(U16_MAX) : 0;
}

static void dmb_match_v6(struct ethtool_rx_flow_spec *spec, const struct devmem_binding_flow *flow)
{
	struct ethtool_tcpip6_spec *value = &spec->h_u.tcp_ip6_spec, *mask = &spec->m_u.tcp_ip6_spec;

	memcpy(value->ip6src, flow->src, sizeof(value->ip6src));
	memcpy(value->ip6dst, flow->dst, sizeof(value->ip6dst));
	value->psrc = flow->src_port;
	value->pdst = flow->dst_port;
	memset(mask->ip6src, memchr_inv(flow->src, 0, sizeof(flow->src)) ? 0xff : 0, sizeof(mask->ip6src));
	memset(mask->ip6dst, memchr_inv(flow->dst, 0, sizeof(flow->dst)) ? 0xff : 0, sizeof(mask->ip6dst));
	mask->psrc = value->psrc ? htons(U16_MAX) : 0;
	mask->pdst = value->pdst ? htons(U16_MAX) : 0;
}

static int dmb_spec_fill(struct ethtool_rx_flow_spec *spec, const struct devmem_binding_rule *rule, struct dmb_said *said)
{
	const struct devmem_binding_flow *flow = &rule->flow;
	bool tcp = flow->protocol == IPPROTO_TCP;

	if (flow->protocol != IPPROTO_TCP && flow->protocol != IPPROTO_UDP) {
		dmb_say(said, "protocol %u: a rule is for TCP (6) or UDP (17)", flow->protocol);
		return -EINVAL;
	}
	memset(spec, 0, sizeof(*spec));
	spec->ring_cookie = rule->queue;
	switch (flow->family) {
	case AF_INET:
		if (memchr_inv(flow->src + 4, 0, 12) || memchr_inv(flow->dst + 4, 0, 12)) {
			dmb_say(said, "an IPv4 address is 4 bytes, what follows is 0");
			return -EINVAL;
		}
		spec->flow_type = tcp ? TCP_V4_FLOW : UDP_V4_FLOW;
		dmb_match_v4(spec, flow);
		break;
	case AF_INET6:
		spec->flow_type = tcp ? TCP_V6_FLOW : UDP_V6_FLOW;
		dmb_match_v6(spec, flow);
		break;
	default:
		dmb_say(said, "address family %u: a rule is for AF_INET or AF_INET6", flow->family);
		return -EINVAL;
	}
	if (!memchr_inv(spec->m_u.hdata, 0, sizeof(spec->m_u.hdata))) {
		dmb_say(said, "no address and no port: such a rule would steer every flow");
		return -EINVAL;
	}
	return 0;
}

/* --- a binding's device, for rules --- */

static bool dmb_has_rules(const struct net_device *dev)
{
	return dev->ethtool_ops->get_rxnfc && dev->ethtool_ops->set_rxnfc;
}

/* With rtnl held. The device may have gone or left since the handle was made. */
static int dmb_rules_begin(struct dmb_binding *dmb, struct dmb_said *said)
{
	int err;

	if (!dmb->dev || dmb->gone || !net_eq(dev_net(dmb->dev), dmb->net)) {
		dmb_say(said, "the network device is gone, or left this network namespace: close the handle");
		return -ENODEV;
	}
	if (!dmb_has_rules(dmb->dev)) {
		dmb_say(said, "%s: its driver has no steering rules (ntuple)", dmb->dev->name);
		return -EOPNOTSUPP;
	}
	err = dmb_device_begin(dmb->dev);
	if (err)
		dmb_say(said, "%s: the device is not ready (suspended, or in reset)", dmb->dev->name);
	return err;
}

static int dmb_rules_check_table(struct dmb_binding *dmb, const struct dmb_table *table, struct dmb_said *said)
{
	struct ethtool_rx_flow_spec spec;
	u32 i;

	for (i = 0; i < table->count; i++) {
		/* Of a rule with FLOW_RSS, the context's table says where it leads: dmb_settings_check() looks at it. */
		if (dmb_rule_read(dmb->dev, table->locations[i], &spec) || (spec.flow_type & FLOW_RSS) || spec.ring_cookie > U32_MAX ||
		    !dmb_has_queue(dmb, spec.ring_cookie))
			continue;
		dmb_say(said, "%s: rule %u steers to queue %llu already: delete it (ethtool -N), or bind another queue",
			dmb->dev->name, table->locations[i], spec.ring_cookie);
		return -EBUSY;
	}
	return 0;
}

/*
 * Refuses queues that someone's rule leads to: what it steers there would be lost in device memory. It is for finding mistakes; a rule
 * that comes later is not seen.
 */
int dmb_rules_check_queues(struct dmb_binding *dmb, struct dmb_said *said)
{
	struct dmb_table table;
	int err = 0;

	rtnl_lock();
	if (dmb->dev && !dmb_has_rules(dmb->dev))
		goto unlock;
	err = dmb_rules_begin(dmb, said);
	if (err)
		goto unlock;
	/* A driver may have the operations and no rules: then none leads anywhere. */
	if (!dmb_table_read(dmb->dev, &table)) {
		err = dmb_rules_check_table(dmb, &table, said);
		kvfree(table.locations);
	}
	dmb_device_end(dmb->dev);
unlock:
	rtnl_unlock();
	return err;
}

/* --- adding --- */

/* Where a new rule goes. -EEXIST: there is one that matches the same. */
static int dmb_rule_place(struct net_device *dev, const struct ethtool_rx_flow_spec *spec, u32 *location, struct dmb_said *said)
{
	struct ethtool_rx_flow_spec other;
	unsigned long *taken = NULL;
	struct dmb_table table;
	int err;
	u32 i;

	err = dmb_table_read(dev, &table);
	if (err) {
		dmb_say(said, "%s: its steering rules cannot be read", dev->name);
		return err;
	}
	for (i = 0; i < table.count; i++) {
		if (dmb_rule_read(dev, table.locations[i], &other) || !dmb_match_same(&other, spec))
			continue;
		dmb_say(said, "%s: rule %u matches the same flow, and steers it to queue %llu", dev->name, table.locations[i],
			other.ring_cookie);
		err = -EEXIST;
		goto out;
	}
	*location = RX_CLS_LOC_ANY;
	if (table.any)
		goto out;
	taken = bitmap_zalloc(max(table.size, 1), GFP_KERNEL);
	if (!taken) {
		err = -ENOMEM;
		goto out;
	}
	for (i = 0; i < table.count; i++)
		if (table.locations[i] < table.size)
			__set_bit(table.locations[i], taken);
	*location = find_first_zero_bit(taken, table.size);
	if (*location >= table.size) {
		dmb_say(said, "%s: all %u places for steering rules are taken", dev->name, table.size);
		err = -ENOSPC;
	}
out:
	bitmap_free(taken);
	kvfree(table.locations);
	return err;
}

/* Under rtnl and the device's lock, as one step: nobody gets in between the free location and the insertion. */
static int dmb_rule_insert(struct net_device *dev, struct dmb_rule *rule, struct dmb_said *said)
{
	struct ethtool_rxnfc info = { .cmd = ETHTOOL_SRXCLSRLINS, .fs = rule->told };
	int err;

	if (rule->queue >= dev->real_num_rx_queues) {	/* the core checks that for a binding, not for a rule */
		dmb_say(said, "%s: it has no queue %u any more", dev->name, rule->queue);
		return -ERANGE;
	}
	err = dmb_rule_place(dev, &rule->told, &info.fs.location, said);
	if (err)
		return err;
	err = dev->ethtool_ops->set_rxnfc(dev, &info);
	if (err) {
		dmb_say(said, "%s: its driver refused the rule (%d): are its places taken, and ntuple on (ethtool -k)?", dev->name, err);
		return err;
	}
	rule->location = info.fs.location;
	err = dmb_rule_read(dev, rule->location, &rule->told);
	if (!err && dmb_rule_same(&rule->told, &info.fs))
		return 0;
	dmb_say(said, "%s: its driver took the rule, but tells another one at %u", dev->name, rule->location);
	if (err)	/* nothing there, or nothing to tell: then nothing of another's either */
		dmb_rule_erase(dev, rule->location);
	return err ?: -EIO;
}

int dmb_rule_add(struct dmb_binding *dmb, struct devmem_binding_rule *want, struct dmb_said *said)
{
	struct dmb_rule *rule;
	int err;

	lockdep_assert_held(&dmb->lock);
	if (!dmb_has_queue(dmb, want->queue)) {
		dmb_say(said, "queue %u is none of this binding's: a rule may lead only to those", want->queue);
		return -EINVAL;
	}
	rule = kzalloc(sizeof(*rule), GFP_KERNEL_ACCOUNT);
	if (!rule)
		return -ENOMEM;
	rule->queue = want->queue;
	rule->flow = want->flow;
	err = dmb_spec_fill(&rule->told, want, said);
	if (err)
		goto free;
	rtnl_lock();
	err = dmb_rules_begin(dmb, said);
	if (!err) {
		err = dmb_rule_insert(dmb->dev, rule, said);
		dmb_device_end(dmb->dev);
	}
	rtnl_unlock();
	if (err)
		goto free;
	list_add_tail(&rule->list, &dmb->rules);
	WRITE_ONCE(dmb->rule_count, dmb->rule_count + 1);
	want->location = rule->location;
	return 0;
free:
	kfree(rule);
	return err;
}

/* --- taking out --- */

static void dmb_rule_forget(struct dmb_binding *dmb, struct dmb_rule *rule)
{
	list_del(&rule->list);
	WRITE_ONCE(dmb->rule_count, dmb->rule_count - 1);
	kfree(rule);
}

/* -ENOENT: somebody deleted it. -ESTALE: at its location there is another one, which stays. */
static int dmb_rule_take_out(struct net_device *dev, const struct dmb_rule *rule)
{
	struct ethtool_rx_flow_spec now;
	int err;

	err = dmb_rule_read(dev, rule->location, &now);
	if (err)
		return err == -EINVAL ? -ENOENT : err;	/* some drivers say it so */
	if (!dmb_rule_same(&now, &rule->told))
		return -ESTALE;
	return dmb_rule_erase(dev, rule->location);
}

int dmb_rule_delete(struct dmb_binding *dmb, u32 location, struct dmb_said *said)
{
	struct dmb_rule *rule;
	int err;

	lockdep_assert_held(&dmb->lock);
	list_for_each_entry(rule, &dmb->rules, list)
		if (rule->location == location)
			goto found;
	dmb_say(said, "this binding has no rule at %u", location);
	return -ENOENT;
found:
	rtnl_lock();
	err = dmb_rules_begin(dmb, said);
	if (err)
		goto unlock;
	err = dmb_rule_take_out(dmb->dev, rule);
	if (err == -ENOENT)
		dmb_say(said, "%s: somebody else deleted rule %u", dmb->dev->name, location);
	else if (err == -ESTALE)
		dmb_say(said, "%s: somebody else has a rule at %u now: it was left alone", dmb->dev->name, location);
	else if (err)
		dmb_say(said, "%s: its driver refused to delete rule %u (%d)", dmb->dev->name, location, err);
	dmb_device_end(dmb->dev);
	if (!err || err == -ENOENT || err == -ESTALE)	/* in any case it is ours no more */
		dmb_rule_forget(dmb, rule);
unlock:
	rtnl_unlock();
	return err;
}

/* All of them, where there still is a device; they are forgotten in any case. Counts and tells what stays. */
void dmb_rules_remove(struct dmb_binding *dmb)
{
	struct dmb_rule *rule, *next;
	struct net_device *dev;
	bool begun;
	int err;

	lockdep_assert_held(&dmb->lock);
	if (list_empty(&dmb->rules))
		return;
	rtnl_lock();
	dev = dmb->dev;		/* NULL: the rules went with it */
	begun = dev && !dmb_device_begin(dev);
	list_for_each_entry_safe(rule, next, &dmb->rules, list) {
		err = !dev ? 0 : begun ? dmb_rule_take_out(dev, rule) : -ENODEV;
		if (err && err != -ENOENT) {
			dmb->report.rules_left++;
			net_warn_ratelimited("%s: devmem_binding %u: rule %u to queue %u stays: %s (%d)\n", dev->name, dmb->id,
					     rule->location, rule->queue,
					     err == -ESTALE ? "it is someone else's now" : "the driver did not delete it", err);
		}
		dmb_rule_forget(dmb, rule);
	}
	if (begun)
		dmb_device_end(dev);
	rtnl_unlock();
}
