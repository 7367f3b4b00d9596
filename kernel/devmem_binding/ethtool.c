// SPDX-License-Identifier: GPL-2.0
/*
 * RSS and header split, by ethtool netlink: never by the driver's operations, which bypass what the core keeps of them and whom it
 * tells.
 *
 * At creation:
 *   1. The RSS table and those of all contexts must not lead to the binding's queues. The table is remembered.
 * At the end, under the creator's credentials, for what he asked (enum devmem_binding_reset):
 *   2. What is not as it was at creation was changed by somebody else, and is left alone.
 *   3. It is reset to the driver's default, so that no trace of a choice remains.
 *   4. It is read again. What the reset did not change is written as it was before (header split), or as the default is (RSS).
 *   5. It is read again, and reported.
 * There is no compare-and-set: who changes it at the same moment wins, or loses, as with any two users of ethtool.
 */
#include <linux/slab.h>

#include "binding.h"
#include "compat.h"

#define DMB_SPLIT_DEFAULT	ETHTOOL_TCP_DATA_SPLIT_UNKNOWN
#define DMB_SPLIT_ON		ETHTOOL_TCP_DATA_SPLIT_ENABLED

/* A request about the binding's device. ETHTOOL_A_*_HEADER is 1 in all of them. */
static struct sk_buff *dmb_ethtool_request(struct dmb_binding *dmb, u8 command, u16 flags, size_t room)
{
	struct sk_buff *request;
	struct nlattr *header;

	BUILD_BUG_ON(ETHTOOL_A_RSS_HEADER != 1 || ETHTOOL_A_RINGS_HEADER != 1);
	request = dmb_request(&dmb->ask, command, flags, room + nla_total_size(nla_total_size(sizeof(u32))));
	if (!request)
		return NULL;
	header = nla_nest_start(request, ETHTOOL_A_RSS_HEADER);
	if (!header || nla_put_u32(request, ETHTOOL_A_HEADER_DEV_INDEX, dmb->ifindex)) {
		nlmsg_free(request);
		return NULL;
	}
	nla_nest_end(request, header);
	return request;
}

/* --- RSS: reading --- */

struct dmb_rss {
	u32 *table;		/* of the main context; NULL: there is none */
	u32 size;
	const struct dmb_binding *queues_of;	/* NULL: nobody looks */
	bool used;		/* one of the binding's queues is led to ... */
	u32 queue, context;	/* ... this one, from there */
};

static int dmb_rss_told(struct nlattr **attributes, void *into)
{
	u32 context = attributes[ETHTOOL_A_RSS_CONTEXT] ? nla_get_u32(attributes[ETHTOOL_A_RSS_CONTEXT]) : 0;
	struct dmb_rss *rss = into;
	const u32 *table;
	u32 i, size;

	if (!attributes[ETHTOOL_A_RSS_INDIR])
		return 0;
	table = nla_data(attributes[ETHTOOL_A_RSS_INDIR]);
	size = nla_len(attributes[ETHTOOL_A_RSS_INDIR]) / sizeof(*table);
	for (i = 0; rss->queues_of && !rss->used && i < size; i++) {
		if (dmb_has_queue(rss->queues_of, table[i])) {
			rss->used = true;
			rss->queue = table[i];
			rss->context = context;
		}
	}
	if (context || rss->table || !size)
		return 0;
	rss->table = kvmemdup(table, size * sizeof(*table), GFP_KERNEL);
	if (!rss->table)
		return -ENOMEM;
	rss->size = size;
	return 0;
}

/* All contexts of the device, in one go. rss->table is the caller's to free. */
static int dmb_rss_read(struct dmb_binding *dmb, struct dmb_rss *rss, struct dmb_said *said)
{
	struct nlattr *attributes[ETHTOOL_A_RSS_INDIR + 1];
	struct sk_buff *request = dmb_ethtool_request(dmb, ETHTOOL_MSG_RSS_GET, NLM_F_DUMP, 0);

	if (!request)
		return -ENOMEM;
	return dmb_ask(&dmb->ask, request, dmb_rss_told, attributes, ETHTOOL_A_RSS_INDIR, rss, said);
}

int dmb_settings_check(struct dmb_binding *dmb, struct dmb_said *said)
{
	struct dmb_rss rss = { .queues_of = dmb };
	int err;

	err = dmb_rss_read(dmb, &rss, said);
	mutex_lock(&dmb_registry_lock);	/* an older binding's end may have left us its table already: this one is newer */
	swap(dmb->rss, rss.table);
	dmb->rss_size = rss.size;
	dmb->rss_of = dmb->id;
	mutex_unlock(&dmb_registry_lock);
	kvfree(rss.table);
	if (err) {
		if (!said->text[0])
			dmb_say(said, "interface %u: its RSS table cannot be read", dmb->ifindex);
		return err;
	}
	if (rss.used) {
		dmb_say(said, "queue %u: RSS %s %u leads to it: spread traffic over other queues first (ethtool -X)", rss.queue,
			rss.context ? "context" : "table", rss.context);
		return -EBUSY;
	}
	return 0;
}

/* --- RSS: resetting --- */

/* @table NULL: back to the default. */
static int dmb_rss_write(struct dmb_binding *dmb, const u32 *table, u32 size, struct dmb_said *said)
{
	size_t bytes = table ? size * sizeof(*table) : 0;
	struct sk_buff *request = dmb_ethtool_request(dmb, DMB_RSS_SET, NLM_F_ACK, nla_total_size(bytes));

	if (!request)
		return -ENOMEM;
	if (nla_put(request, ETHTOOL_A_RSS_INDIR, bytes, table)) {
		nlmsg_free(request);
		return -EMSGSIZE;
	}
	return dmb_ask(&dmb->ask, request, NULL, NULL, 0, NULL, said);
}

static bool dmb_rss_is_default(const u32 *table, u32 size, u32 rings)
{
	u32 i;

	for (i = 0; i < size; i++)
		if (table[i] != ethtool_rxfh_indir_default(i, rings))
			return false;
	return true;
}

/* How many queues the default spreads traffic over; 0: not one may be led to, because somebody has device memory on it. */
static int dmb_rss_rings(struct dmb_binding *dmb, u32 *rings)
{
	struct net_device *dev;
	int err = -ENODEV;
	u32 i;

	rtnl_lock();
	dev = dmb->dev;
	if (dev) {
		err = 0;
		netdev_lock_ops(dev);
		*rings = dev->real_num_rx_queues;
		for (i = 0; i < *rings; i++)
			if (dmb_queue_unreadable(dev, i))
				err = -EBUSY;
		netdev_unlock_ops(dev);
	}
	rtnl_unlock();
	return err;
}

static bool dmb_rss_unchanged(const struct dmb_binding *dmb, const struct dmb_rss *now)
{
	return now->size == dmb->rss_size && now->table && !memcmp(now->table, dmb->rss, dmb->rss_size * sizeof(u32));
}

/* Reads; 1: the table is as it was when the binding was made. */
static int dmb_rss_compare(struct dmb_binding *dmb, u32 rings, bool *is_default, struct dmb_said *said)
{
	struct dmb_rss now = {};
	int err;

	err = dmb_rss_read(dmb, &now, said);
	if (!err) {
		err = dmb_rss_unchanged(dmb, &now);
		*is_default = now.table && dmb_rss_is_default(now.table, now.size, rings);
	}
	kvfree(now.table);
	return err;
}

static int dmb_rss_write_default(struct dmb_binding *dmb, u32 rings, struct dmb_said *said)
{
	u32 *table = kvcalloc(dmb->rss_size, sizeof(*table), GFP_KERNEL);
	int err;
	u32 i;

	if (!table)
		return -ENOMEM;
	for (i = 0; i < dmb->rss_size; i++)
		table[i] = ethtool_rxfh_indir_default(i, rings);
	err = dmb_rss_write(dmb, table, dmb->rss_size, said);
	kvfree(table);
	return err;
}

/* -ESTALE: somebody else changed it. */
static int dmb_rss_reset(struct dmb_binding *dmb, struct dmb_said *said)
{
	bool is_default = false;
	int err, same;
	u32 rings;

	if (!DMB_RSS_SET || !dmb->rss)
		return -EOPNOTSUPP;
	err = dmb_rss_rings(dmb, &rings);
	if (err)
		return err;
	same = dmb_rss_compare(dmb, rings, &is_default, said);
	if (same <= 0)
		return same ?: -ESTALE;
	err = dmb_rss_write(dmb, NULL, 0, said);
	if (err)
		return err;
	same = dmb_rss_compare(dmb, rings, &is_default, said);
	if (same < 0 || is_default)
		return min(same, 0);
	if (!same)	/* neither what we left nor the default */
		return -ESTALE;
	err = dmb_rss_write_default(dmb, rings, said);
	if (err)
		return err;
	same = dmb_rss_compare(dmb, rings, &is_default, said);
	return same < 0 ? same : is_default ? 0 : -EIO;
}

/* --- header split --- */

struct dmb_split {
	u8 split;
	u32 threshold;
};

static int dmb_split_told(struct nlattr **attributes, void *into)
{
	struct dmb_split *now = into;

	/* The driver's choice is told by telling nothing. */
	now->split = attributes[ETHTOOL_A_RINGS_TCP_DATA_SPLIT] ? nla_get_u8(attributes[ETHTOOL_A_RINGS_TCP_DATA_SPLIT]) :
		     DMB_SPLIT_DEFAULT;
	now->threshold = DMB_HDS_THRESH && attributes[DMB_HDS_THRESH] ? nla_get_u32(attributes[DMB_HDS_THRESH]) : 0;
	return 0;
}

static int dmb_split_read(struct dmb_binding *dmb, struct dmb_split *now, struct dmb_said *said)
{
	struct nlattr *attributes[ETHTOOL_A_RINGS_MAX + 1];
	struct sk_buff *request = dmb_ethtool_request(dmb, ETHTOOL_MSG_RINGS_GET, NLM_F_ACK, 0);

	if (!request)
		return -ENOMEM;
	return dmb_ask(&dmb->ask, request, dmb_split_told, attributes, ETHTOOL_A_RINGS_MAX, now, said);
}

/* @threshold 0: left as it is. */
static int dmb_split_write(struct dmb_binding *dmb, u8 split, u32 threshold, struct dmb_said *said)
{
	struct sk_buff *request = dmb_ethtool_request(dmb, ETHTOOL_MSG_RINGS_SET, NLM_F_ACK, 2 * nla_total_size(sizeof(u32)));
	int err;

	if (!request)
		return -ENOMEM;
	err = nla_put_u8(request, ETHTOOL_A_RINGS_TCP_DATA_SPLIT, split);
	if (!err && threshold)
		err = nla_put_u32(request, DMB_HDS_THRESH, threshold);
	if (err) {
		nlmsg_free(request);
		return err;
	}
	return dmb_ask(&dmb->ask, request, NULL, NULL, 0, NULL, said);
}

/* -ESTALE: somebody else changed it. */
static int dmb_split_reset(struct dmb_binding *dmb, struct dmb_said *said)
{
	u8 before = dmb->split_before;
	struct dmb_split now;
	int err;

	err = dmb_split_read(dmb, &now, said);
	if (err)
		return err;
	if (now.split != DMB_SPLIT_ON || now.threshold)
		return -ESTALE;
	/* The threshold first: some drivers take one only while the split is on. */
	if (DMB_HDS_THRESH && dmb->threshold_before)
		err = dmb_split_write(dmb, DMB_SPLIT_ON, dmb->threshold_before, said);
	if (err || before == DMB_SPLIT_ON)
		return err;
	err = dmb_split_write(dmb, DMB_SPLIT_DEFAULT, 0, said) ?: dmb_split_read(dmb, &now, said);
	if (err || before == DMB_SPLIT_DEFAULT || now.split == before)
		return err;
	if (now.split != DMB_SPLIT_ON)	/* the default is told as "unknown" by some drivers */
		return 0;
	err = dmb_split_write(dmb, before, 0, said) ?: dmb_split_read(dmb, &now, said);
	return err ?: now.split == DMB_SPLIT_ON ? -EIO : 0;
}

/* --- both --- */

static enum devmem_binding_outcome dmb_outcome(const struct dmb_binding *dmb, const char *what, int err, const struct dmb_said *said)
{
	static const struct {
		int err;
		enum devmem_binding_outcome outcome;
		const char *words;
	} known[] = {
		{ 0, DEVMEM_BINDING_OUTCOME_DONE },
		{ -ESTALE, DEVMEM_BINDING_OUTCOME_CHANGED, "somebody else changed it meanwhile" },
		{ -EAGAIN, DEVMEM_BINDING_OUTCOME_HANDED_OVER },
		{ -EBUSY, DEVMEM_BINDING_OUTCOME_IN_USE, "the default would lead to a queue on which someone else has device memory" },
		{ -EOPNOTSUPP, DEVMEM_BINDING_OUTCOME_UNSUPPORTED },
		{ -ENODEV, DEVMEM_BINDING_OUTCOME_DEVICE_GONE, "the device is gone" },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].err == err)
			break;
	/* Not what is so with every binding on this machine: the event says it. */
	if (err && err != -EAGAIN && err != -EOPNOTSUPP)
		net_warn_ratelimited("interface %u: devmem_binding %u: %s not reset: %s (%d)\n", dmb->ifindex, dmb->id, what,
				     said->text[0] ? said->text : i < ARRAY_SIZE(known) ? known[i].words : "refused", err);
	return i < ARRAY_SIZE(known) ? known[i].outcome : DEVMEM_BINDING_OUTCOME_REFUSED;
}

/* What another binding's end is told, so that it can do ours. Under rtnl and dmb_registry_lock. */
static void dmb_settings_entrust(struct dmb_binding *dmb, struct dmb_binding *other)
{
	/* Its own "before" may be what we had set. */
	if ((dmb->reset & DEVMEM_BINDING_RESET_SPLIT) &&
	    (!(other->reset & DEVMEM_BINDING_RESET_SPLIT) || other->split_before == DMB_SPLIT_ON)) {
		other->split_before = dmb->split_before;
		other->threshold_before = dmb->threshold_before;
	}
	/* The table as it was left last by one of us; one who asked for no reset did not say that it is his. */
	if ((dmb->reset & DEVMEM_BINDING_RESET_RSS) && dmb->rss && (!other->rss || dmb->rss_of > other->rss_of)) {
		swap(dmb->rss, other->rss);
		swap(dmb->rss_size, other->rss_size);
		swap(dmb->rss_of, other->rss_of);
	}
	other->reset |= dmb->reset;
}

/*
 * While another binding of the device is held, nothing can be reset: the default would send everybody's traffic to its queues. Its
 * end will do it. Whoever comes here last finds nobody, and all others unbound: -EAGAIN was told to them, 0 to him.
 */
static int dmb_settings_decide(struct dmb_binding *dmb)
{
	struct dmb_binding *other;
	unsigned long id;
	int err;

	rtnl_lock();
	mutex_lock(&dmb_registry_lock);
	err = dmb->dev ? 0 : -ENODEV;
	xa_for_each(&dmb_registry, id, other) {
		if (err || other == dmb || other->dev != dmb->dev || other->settled)
			continue;
		dmb_settings_entrust(dmb, other);
		err = -EAGAIN;
	}
	dmb->settled = true;
	mutex_unlock(&dmb_registry_lock);
	rtnl_unlock();
	return err;
}

/* After the unbinding: while device memory is bound, the core lets nobody switch header split off. */
void dmb_settings_reset(struct dmb_binding *dmb)
{
	int err = dmb_settings_decide(dmb);
	struct dmb_said said = {};
	const struct cred *own = override_creds(dmb->cred);

	if (dmb->reset & DEVMEM_BINDING_RESET_RSS)
		dmb->report.rss = dmb_outcome(dmb, "RSS table", err ?: dmb_rss_reset(dmb, &said), &said);
	said.text[0] = 0;
	if (dmb->reset & DEVMEM_BINDING_RESET_SPLIT)
		dmb->report.split = dmb_outcome(dmb, "header split", err ?: dmb_split_reset(dmb, &said), &said);
	revert_creds(own);
}
