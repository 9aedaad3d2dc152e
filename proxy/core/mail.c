/* SPDX-License-Identifier: PostgreSQL */
#include "core/mail.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

void *mail_new(size_t size, enum mail_type type)
{
	struct letter *letter = mem_spare_alloc(size);

	if (letter != NULL)
		letter->type = (int)type;
	return letter;
}

struct mail_database *mail_new_database(enum mail_type type, const char *name)
{
	struct mail_database *mail = mail_new(sizeof(*mail), type);
	const size_t len = strlen(name);

	if (mail == NULL)
		return NULL;
	mail->name = mem_spare_alloc(len + 1);
	if (mail->name == NULL) {
		free(mail);
		return NULL;
	}
	memcpy(mail->name, name, len);
	return mail;
}

void *mail_must_new(size_t size, enum mail_type type)
{
	unsigned tries = 0;
	void *mail;

	while ((mail = mail_new(size, type)) == NULL)
		mem_wait(&tries, size);
	return mail;
}

struct mail_database *mail_must_new_database(enum mail_type type, const char *name)
{
	unsigned tries = 0;
	struct mail_database *mail;

	while ((mail = mail_new_database(type, name)) == NULL)
		mem_wait(&tries, sizeof(*mail));
	return mail;
}

void mail_free_database(struct mail_database *mail)
{
	free(mail->name);
	free(mail->server);
	free(mail->text);
	free(mail);
}

void mail_free_welcome(struct mail_welcome *mail)
{
	free(mail->database);
	free(mail->user);
	free(mail->params);
	free(mail);
}
