package cloud

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Grant says who holds which credentials until when, and none of them.
type Grant struct {
	Role        string    `json:"role"`
	Holder      string    `json:"holder"`
	AccessKeyID string    `json:"access_key_id"`
	Issued      time.Time `json:"issued_at"`
	Expires     time.Time `json:"expires_at"`
}

type grantKey struct{ holder, accessKeyID string }

// note writes into the ledger; the caller holds the lock. What has expired
// leaves it, so that it holds an hour at most.
func (b *Broker) note(role, holder string, c Credentials) {
	b.grants[grantKey{holder, c.AccessKeyID}] = Grant{Role: role, Holder: holder, AccessKeyID: c.AccessKeyID, Issued: c.Issued, Expires: c.Expires}
	now := b.clock.Now()
	if now.Sub(b.lastSwept) < time.Minute {
		return
	}
	b.lastSwept = now
	for key, grant := range b.grants {
		if !now.Before(grant.Expires) {
			delete(b.grants, key)
		}
	}
	for role, c := range b.cached {
		if !now.Before(c.Expires) {
			delete(b.cached, role)
		}
	}
}

// Ledger lists what is alive of what was handed out, by role and holder.
func (b *Broker) Ledger() []Grant {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock.Now()
	var alive []Grant
	for _, grant := range b.grants {
		if now.Before(grant.Expires) {
			alive = append(alive, grant)
		}
	}
	slices.SortFunc(alive, func(a, b Grant) int {
		return cmp.Or(strings.Compare(a.Role, b.Role), strings.Compare(a.Holder, b.Holder), a.Issued.Compare(b.Issued))
	})
	return alive
}

// Revoke hands out no credentials of role any more that were issued at or
// before the present moment, those on their way included. It returns who holds
// such, and the policy that has the cloud refuse them: the broker has no right
// to attach it, a person with rights on the role does.
func (b *Broker) Revoke(role string) (held []Grant, policy string) {
	b.mu.Lock()
	now := b.clock.Now()
	r := b.revoked[role]
	b.revoked[role] = revocation{before: now, epoch: r.epoch + 1}
	for of := range b.cached {
		if of.ARN == role {
			delete(b.cached, of)
		}
	}
	b.mu.Unlock()
	for _, grant := range b.Ledger() {
		if grant.Role == role && !grant.Issued.After(now) {
			held = append(held, grant)
		}
	}
	return held, DenyBefore(now)
}

// DenyBefore is the policy that refuses all sessions issued before a moment.
func DenyBefore(moment time.Time) string {
	policy, _ := json.Marshal(map[string]any{ // of JSON's own types
		"Version": "2012-10-17",
		"Statement": []any{map[string]any{
			"Sid": "RevokedByBerth", "Effect": "Deny", "Action": []string{"*"}, "Resource": []string{"*"},
			"Condition": map[string]any{"DateLessThan": map[string]string{"aws:TokenIssueTime": moment.UTC().Add(time.Second).Format(time.RFC3339)}},
		}},
	})
	return string(policy)
}
