/* SPDX-License-Identifier: PostgreSQL */
/*
 * The coordinator while another process takes over (core/handover.h): what was decided here must be
 * what the other one reads, so nothing is decided any more.  Main thread.
 */
#include "core/admin_internal.h"
#include "core/handover.h"

static bool freeze_refuses(const struct admin *admin, struct sbuf *why)
{
	struct list_node *node;
	struct list_node *tmp;

	if (admin->suspended || admin->paused_all)
		sbuf_add_str(why, admin->suspended ? "SUSPEND is in force: RESUME first"
		                                   : "all databases are paused: RESUME first");
	LIST_FOREACH(&admin->databases, node, tmp)
	{
		const struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

		if (why->len > 0)
			break;
		if (db->state != HOLD_OPEN || event_pending(db->open_timer, EV_TIMEOUT, NULL))
			sbuf_printf(why, "database \"%s\" is %s: wait until it is released",
			            db->name, db->paused ? "paused" : "held");
		else if (db->swap_to != NULL || db->target != NULL)
			sbuf_printf(why, "a swap of database \"%s\" is prepared", db->name);
	}
	LIST_FOREACH(&admin->working, node, tmp)
	{
		const struct admin_request *request =
		    CONTAINER_OF(node, struct admin_request, node);

		if (why->len == 0 && request->db != NULL && request->token != 0)
			sbuf_printf(why, "a command for database \"%s\" is under way",
			            request->db->name);
	}
	if (why->len == 0 && admin->pauses.count > 0)
		sbuf_add_str(why, "a PAUSE is under way");
	return why->len > 0;
}

bool admin_freeze(struct admin *admin, uint64_t *number, struct sbuf *why)
{
	if (freeze_refuses(admin, why))
		return false;
	*number = admin_save(admin);
	admin->frozen = true;
	return true;
}

void admin_thaw(struct admin *admin)
{
	admin->frozen = false;
	(void)admin_save(admin);
}

bool admin_written(const struct admin *admin, uint64_t number)
{
	return admin->saved >= number;
}

void admin_leave_state(struct admin *admin)
{
	admin->frozen = true;
}

int admin_lock_fd(const struct admin *admin)
{
	return admin->lock_fd;
}

bool request_may_change(struct admin_request *request)
{
	const struct handover *handover = request->admin->proxy->handover;
	unsigned clients;
	const pid_t former = handover_former(handover, &clients);

	if (handover_gone(handover)) {
		request_hint(request, "Connect again, and repeat the command there.");
		request_fail(request, "55006", "another pgshuntd has taken over from this process");
	} else if (request->admin->frozen) {
		request_hint(request, "Connect again in a moment, and repeat the command.");
		request_fail(request, "55006", "another pgshuntd is taking over from this process");
	} else if (former != 0) {
		request_detail(request, "It has %u clients, which this command would not reach.",
		               clients);
		request_hint(request,
		             "Wait until they have gone (takeover_timeout), or end them "
		             "with \"kill %d\".",
		             (int)former);
		request_fail(request, "55006",
		             "the process before this one (pid %d) still serves clients",
		             (int)former);
	} else {
		return true;
	}
	return false;
}
