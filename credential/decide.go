package credential

import (
	"hash/fnv"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Facts are all that the decision about a rotation rests on.
type Facts struct {
	Now     time.Time
	Current *v1alpha1.CredentialStatus // nil: never recorded
	Spec    v1alpha1.RotationSpec
	// Journalled is a version after Current whose preparation has begun, or 0.
	Journalled int64
	// Published: the Secret already tells the journalled version.
	Published bool
	// Lost: neither the Secret nor the journal holds the current password.
	Lost bool
}

// Decision says which version to prepare. Version 0 is none.
type Decision struct {
	Version int64
	Reason  string
	Urgent  bool // sessions on the login that this version takes over are ended
}

// Reasons of a Decision.
const (
	FirstCredential   = "FirstCredential"
	RotationUnderway  = "RotationUnderway"
	PasswordLost      = "PasswordLost"
	RevocationAsked   = "RevocationAsked"
	RotationAsked     = "RotationAsked"
	RotationDue       = "RotationDue"
	PreviousStillOpen = "PreviousStillOpen" // due, but the login it needs may be in use
)

type rule struct {
	reason string
	holds  func(Facts) bool
}

// rules in order; the first that holds is the reason to rotate.
var rules = []rule{
	{FirstCredential, func(f Facts) bool { return f.Current == nil }},
	{RotationUnderway, func(f Facts) bool { return f.Published }},
	{RevocationAsked, func(f Facts) bool { return f.Spec.RevokedThrough >= f.Current.Version }},
	{RotationUnderway, func(f Facts) bool { return f.Journalled > 0 }},
	{PasswordLost, func(f Facts) bool { return f.Lost }},
	{RotationAsked, func(f Facts) bool { return f.Spec.MinVersion > f.Current.Version }},
	{RotationDue, func(f Facts) bool { return !f.Now.Before(f.Current.RotatesAt.Time) }},
}

// Decide says whether a new version is due. A login that may still be in use
// is never taken over, except by a revocation.
func Decide(f Facts) Decision {
	for _, r := range rules {
		switch {
		case !r.holds(f):
			continue
		case f.Current == nil:
			return Decision{Version: max(1, f.Spec.MinVersion, f.Spec.RevokedThrough+1), Reason: r.reason}
		case f.Published:
			return Decision{Version: f.Journalled, Reason: r.reason}
		case f.Current.Previous != "" && r.reason != RevocationAsked:
			return Decision{Reason: PreviousStillOpen}
		}
		return Decision{Version: following(f.Current.Version, f.Spec), Reason: r.reason, Urgent: r.reason == RevocationAsked}
	}
	return Decision{}
}

// following is the next version that satisfies spec and uses the idle login.
func following(current int64, spec v1alpha1.RotationSpec) int64 {
	next := max(current+1, spec.MinVersion, spec.RevokedThrough+1)
	if !alternate(current, next) {
		next++
	}
	return next
}

// alternate reports whether two versions use different logins.
func alternate(one, other int64) bool { return (one-other)%2 != 0 }

// NextRotation is when a version is replaced: up to a tenth of the period
// early, by a share that is fixed for the object, so that claims made together
// do not rotate together. It has whole seconds, as the API stores them.
func NextRotation(published time.Time, period time.Duration, object string) time.Time {
	h := fnv.New32a()
	_, _ = h.Write([]byte(object))
	early := time.Duration(float64(period/10) * float64(h.Sum32()) / (1 << 32))
	return published.Add(period - early).Truncate(time.Second)
}
