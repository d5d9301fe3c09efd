package credential

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func TestDecide(t *testing.T) {
	t.Parallel()
	at := func(version int64, previous string) *v1alpha1.CredentialStatus {
		return &v1alpha1.CredentialStatus{Login: "o", Version: version, Previous: previous,
			PublishedAt: metav1.NewTime(noon.Add(-time.Minute)), RotatesAt: metav1.NewTime(noon.Add(time.Minute))}
	}
	due := noon.Add(time.Minute)
	for name, tc := range map[string]struct {
		facts Facts
		want  Decision
	}{
		"does nothing while the current version is fresh":    {Facts{Now: noon, Current: at(4, "")}, Decision{}},
		"does nothing while the previous login is open":      {Facts{Now: noon, Current: at(4, "o_a")}, Decision{}},
		"starts with version 1":                              {Facts{Now: noon}, Decision{1, FirstCredential, false}},
		"starts where the request says":                      {Facts{Now: noon, Spec: v1alpha1.RotationSpec{MinVersion: 7}}, Decision{7, FirstCredential, false}},
		"starts after what was revoked, and ends nothing":    {Facts{Now: noon, Spec: v1alpha1.RotationSpec{RevokedThrough: 7}}, Decision{8, FirstCredential, false}},
		"rotates when the time has come":                     {Facts{Now: due, Current: at(4, "")}, Decision{5, RotationDue, false}},
		"rotates long after the time has come":               {Facts{Now: due.Add(time.Hour), Current: at(4, "")}, Decision{5, RotationDue, false}},
		"does not rotate a moment before":                    {Facts{Now: due.Add(-1), Current: at(4, "")}, Decision{}},
		"waits for the previous login when due":              {Facts{Now: due, Current: at(4, "o_a")}, Decision{0, PreviousStillOpen, false}},
		"rotates when asked":                                 {Facts{Now: noon, Current: at(4, ""), Spec: v1alpha1.RotationSpec{MinVersion: 5}}, Decision{5, RotationAsked, false}},
		"does nothing when what was asked is there":          {Facts{Now: noon, Current: at(4, ""), Spec: v1alpha1.RotationSpec{MinVersion: 4}}, Decision{}},
		"jumps over a version whose login is in use":         {Facts{Now: noon, Current: at(4, ""), Spec: v1alpha1.RotationSpec{MinVersion: 6}}, Decision{7, RotationAsked, false}},
		"waits for the previous login when asked":            {Facts{Now: noon, Current: at(4, "o_a"), Spec: v1alpha1.RotationSpec{MinVersion: 5}}, Decision{0, PreviousStillOpen, false}},
		"revokes at once":                                    {Facts{Now: noon, Current: at(4, ""), Spec: v1alpha1.RotationSpec{RevokedThrough: 4}}, Decision{5, RevocationAsked, true}},
		"revokes although the previous login is open":        {Facts{Now: noon, Current: at(4, "o_a"), Spec: v1alpha1.RotationSpec{RevokedThrough: 4}}, Decision{5, RevocationAsked, true}},
		"revokes versions that are still to come":            {Facts{Now: noon, Current: at(4, ""), Spec: v1alpha1.RotationSpec{RevokedThrough: 9}}, Decision{11, RevocationAsked, true}},
		"does nothing when older versions are revoked":       {Facts{Now: noon, Current: at(4, ""), Spec: v1alpha1.RotationSpec{RevokedThrough: 3}}, Decision{}},
		"replaces a lost password":                           {Facts{Now: noon, Current: at(4, ""), Lost: true}, Decision{5, PasswordLost, false}},
		"waits for the previous login to replace a lost one": {Facts{Now: noon, Current: at(4, "o_a"), Lost: true}, Decision{0, PreviousStillOpen, false}},
		"records first what the Secret tells already": {
			Facts{Now: due, Current: at(4, "o_a"), Journalled: 5, Published: true, Spec: v1alpha1.RotationSpec{MinVersion: 9, RevokedThrough: 8}},
			Decision{5, RotationUnderway, false}},
		"records a jump that the Secret tells already": {Facts{Now: noon, Current: at(4, ""), Journalled: 9, Published: true}, Decision{9, RotationUnderway, false}},
		"goes on with what was begun":                  {Facts{Now: noon, Current: at(4, ""), Journalled: 5}, Decision{5, RotationUnderway, false}},
		"goes on with what was begun and then lost":    {Facts{Now: noon, Current: at(4, ""), Journalled: 5, Lost: true}, Decision{5, RotationUnderway, false}},
		"a revocation that was begun stays urgent": {
			Facts{Now: noon, Current: at(4, "o_a"), Journalled: 5, Spec: v1alpha1.RotationSpec{RevokedThrough: 4}}, Decision{5, RevocationAsked, true}},
		"a revocation goes before a request":    {Facts{Now: due, Current: at(4, ""), Lost: true, Spec: v1alpha1.RotationSpec{MinVersion: 5, RevokedThrough: 4}}, Decision{5, RevocationAsked, true}},
		"a lost password goes before a request": {Facts{Now: due, Current: at(4, ""), Lost: true, Spec: v1alpha1.RotationSpec{MinVersion: 5}}, Decision{5, PasswordLost, false}},
		"a request goes before the schedule":    {Facts{Now: due, Current: at(4, ""), Spec: v1alpha1.RotationSpec{MinVersion: 5}}, Decision{5, RotationAsked, false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, Decide(tc.facts)); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheNextVersionAlwaysFits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const most = 1_000_000_000 // the greatest request that the API accepts
		version := rapid.OneOf(rapid.Int64Range(1, 20), rapid.Int64Range(1, most+2))
		previous := rapid.SampledFrom([]string{"", "o_a"}).Draw(t, "previous")
		f := Facts{
			Now:     noon,
			Current: &v1alpha1.CredentialStatus{Version: version.Draw(t, "current"), Previous: previous, RotatesAt: metav1.NewTime(noon.Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "due"))))},
			Spec: v1alpha1.RotationSpec{
				MinVersion:     rapid.OneOf(rapid.Int64Range(0, 20), rapid.Int64Range(0, most)).Draw(t, "min"),
				RevokedThrough: rapid.OneOf(rapid.Int64Range(0, 20), rapid.Int64Range(0, most)).Draw(t, "revoked"),
			},
			Lost: rapid.Bool().Draw(t, "lost"),
		}
		d := Decide(f)
		revocation := f.Spec.RevokedThrough >= f.Current.Version
		wanted := revocation || f.Lost || f.Spec.MinVersion > f.Current.Version || f.Current.RotatesAt.Time.Before(noon.Add(1))
		switch {
		case d.Version == 0 && wanted && (previous == "" || revocation):
			t.Fatal("a rotation that is due and possible was not decided")
		case d.Version == 0:
			return
		case !wanted:
			t.Fatalf("decided %+v for nothing", d)
		case d.Version <= f.Current.Version || d.Version < f.Spec.MinVersion || d.Version <= f.Spec.RevokedThrough:
			t.Fatalf("version %d does not satisfy %+v after %d", d.Version, f.Spec, f.Current.Version)
		case (d.Version-f.Current.Version)%2 != 1:
			t.Fatalf("version %d uses the login of %d", d.Version, f.Current.Version)
		case d.Version > max(f.Current.Version+1, f.Spec.MinVersion, f.Spec.RevokedThrough+1)+1:
			t.Fatalf("version %d jumps further than it must", d.Version)
		case previous != "" && !revocation:
			t.Fatalf("version %d takes over a login that is open", d.Version)
		case d.Urgent != revocation:
			t.Fatalf("urgent is %t", d.Urgent)
		}
	})
}

func TestNextRotationIsStaggeredAndStable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		period := time.Duration(rapid.Int64Range(int64(time.Second), int64(24*time.Hour)).Draw(t, "period"))
		object := rapid.String().Draw(t, "object")
		published := noon.Add(time.Duration(rapid.IntRange(0, 1e9).Draw(t, "nanoseconds")))
		next := NextRotation(published, period, object)
		if next != NextRotation(published, period, object) {
			t.Fatal("the same object got two times")
		}
		if next.Nanosecond() != 0 {
			t.Fatalf("%s has no whole seconds", next)
		}
		if after := next.Sub(published); after > period || after <= period-period/10-time.Second {
			t.Fatalf("rotates %s after publication, with a period of %s", after, period)
		}
	})
}

func TestNextRotationSpreadsObjects(t *testing.T) {
	t.Parallel()
	const tenths = 10
	var hits [tenths]int
	for i := range 1000 {
		early := noon.Add(10 * time.Hour).Sub(NextRotation(noon, 10*time.Hour, fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i), byte(i >> 8)}))))
		hits[min(tenths-1, int(early*tenths/time.Hour))]++
	}
	for i, n := range hits {
		if n < 50 || n > 200 {
			t.Errorf("%d of 1000 objects rotate in part %d of ten: %v", n, i+1, hits)
		}
	}
}

// No test can set the clock of the machine. What shields the hold from it is
// that times keep their monotonic reading, which Go prints as "m=".
func TestTheHoldIsMeasuredByTheMonotonicClock(t *testing.T) {
	t.Parallel()
	k := &Keeper{Clock: clock.RealClock{}}
	object := &v1alpha1.DatabaseClaim{ObjectMeta: metav1.ObjectMeta{UID: "1"}}
	r := &Rotation{keeper: k, Tenant: Tenant{Object: object, Policy: v1alpha1.RotationPolicy{Propagation: &metav1.Duration{Duration: time.Hour}}}}
	if left := r.holdLeft(&v1alpha1.CredentialStatus{Version: 2}); left > time.Hour || left < time.Hour-time.Minute {
		t.Errorf("%s of an hour is left", left)
	}
	if since := k.sighting("1").since.String(); !strings.Contains(since, " m=") {
		t.Errorf("the hold is measured by the wall clock, from %s", since)
	}
}
