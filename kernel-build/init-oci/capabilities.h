/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CAPABILITIES_H
#define CAPABILITIES_H

/* The number of a capability that is named as in capabilities(7), with or without CAP_; -1: there is none. */
int capability_number(const char *name);

#endif
