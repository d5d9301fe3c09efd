package cloud_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clocktest "k8s.io/utils/clock/testing"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/cloud"
)

// service issues credentials of what is asked for, and counts.
type service struct {
	mu    sync.Mutex
	calls int
	now   func() time.Time
	life  time.Duration // 0: what was asked for
	err   error
	takes time.Duration
	asked cloud.Request
}

func (s *service) assume(_ context.Context, r cloud.Request) (cloud.Credentials, error) {
	if s.takes > 0 {
		<-time.After(s.takes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.asked = r
	if s.err != nil {
		return cloud.Credentials{}, s.err
	}
	life := s.life
	if life == 0 {
		life = r.Duration
	}
	return cloud.Credentials{AccessKeyID: fmt.Sprint("AKIA", s.calls), SecretAccessKey: "hush", SessionToken: "token", Expires: s.now().Add(life)}, nil
}

// TestWhatIsHandedOutLivesLongerThanTheLookahead walks a broker through any
// order of requests, faults, waits and revocations.
func TestWhatIsHandedOutLivesLongerThanTheLookahead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		clock := clocktest.NewFakePassiveClock(time.Date(2026, 7, 2, 0, 0, 0, 0, time.UTC))
		s := &service{now: clock.Now}
		b := cloud.New(cloud.Options{Assume: s.assume, Clock: clock, Duration: time.Duration(rapid.IntRange(0, 7200).Draw(t, "seconds")) * time.Second})
		issued, dead := map[string]string{}, map[string]bool{} // access keys: their roles, and the revoked ones
		t.Repeat(map[string]func(*rapid.T){
			"get": func(t *rapid.T) {
				role := rapid.SampledFrom([]string{"arn:a", "arn:b"}).Draw(t, "role")
				s.life = rapid.SampledFrom([]time.Duration{0, 0, 0, time.Minute, 12 * time.Hour}).Draw(t, "life")
				s.err = rapid.SampledFrom([]error{nil, nil, nil, errors.New("AccessDenied")}).Draw(t, "fault")
				before := s.calls
				c, err := b.Get(t.Context(), cloud.Role{ARN: role}, "holder")
				switch {
				case err != nil && s.calls == before:
					t.Fatalf("an error without a call: %v", err)
				case err != nil:
					return
				case c.Expires.Sub(clock.Now()) <= b.Lookahead():
					t.Fatalf("it lives for %s, the lookahead is %s", c.Expires.Sub(clock.Now()), b.Lookahead())
				case dead[c.AccessKeyID]:
					t.Fatalf("%s was revoked", c)
				case s.asked.Duration < cloud.MinDuration || s.asked.Duration > cloud.MaxDuration:
					t.Fatalf("%s were asked for", s.asked.Duration)
				}
				issued[c.AccessKeyID] = role
				again, err := b.Get(t.Context(), cloud.Role{ARN: role}, "another")
				if s.life == 0 && (err != nil || again != c) {
					t.Fatalf("the second to ask got %v, %v", again, err)
				}
			},
			"wait": func(t *rapid.T) {
				clock.SetTime(clock.Now().Add(time.Duration(rapid.IntRange(1, 3600).Draw(t, "seconds")) * time.Second))
			},
			"revoke": func(t *rapid.T) {
				role := rapid.SampledFrom([]string{"arn:a", "arn:b"}).Draw(t, "role")
				b.Revoke(role)
				for key, of := range issued {
					dead[key] = dead[key] || of == role
				}
			},
			"": func(t *rapid.T) {
				for _, g := range b.Ledger() {
					if !clock.Now().Before(g.Expires) {
						t.Fatalf("the ledger holds what has expired: %+v", g)
					}
				}
			},
		})
	})
}

func TestCallersOfOneRoleShareACall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{now: time.Now, takes: 5 * time.Second}
		b := cloud.New(cloud.Options{Assume: s.assume})
		var work sync.WaitGroup
		for i := range 16 {
			work.Go(func() {
				if c, err := b.Get(t.Context(), cloud.Role{ARN: "arn:a"}, fmt.Sprint("worker-", i)); err != nil || c.AccessKeyID != "AKIA1" {
					t.Errorf("worker %d got %v, %v", i, c, err)
				}
			})
		}
		work.Wait()
		if s.calls != 1 || len(b.Ledger()) != 16 {
			t.Errorf("%d calls and %d grants, want 1 and 16", s.calls, len(b.Ledger()))
		}
	})
}

func TestOneWhoWaitsMayLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{now: time.Now, takes: 20 * time.Second}
		b := cloud.New(cloud.Options{Assume: s.assume})
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		var work sync.WaitGroup
		work.Go(func() { // the first to ask leaves; its call goes on for the other
			if _, err := b.Get(impatient, cloud.Role{ARN: "arn:a"}, "impatient"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
		})
		work.Go(func() {
			if _, err := b.Get(t.Context(), cloud.Role{ARN: "arn:a"}, "patient"); err != nil {
				t.Error(err)
			}
		})
		work.Wait()
		if s.calls != 1 {
			t.Errorf("%d calls", s.calls)
		}
	})
}

func TestErrorsAreNotCached(t *testing.T) {
	t.Parallel()
	s := &service{now: time.Now, err: errors.New("Throttling")}
	b := cloud.New(cloud.Options{Assume: s.assume})
	if _, err := b.Get(t.Context(), cloud.Role{ARN: "arn:a"}, "worker"); err == nil {
		t.Fatal("an error was expected")
	}
	s.err = nil
	if _, err := b.Get(t.Context(), cloud.Role{ARN: "arn:a"}, "worker"); err != nil || s.calls != 2 {
		t.Errorf("after the fault: %v, %d calls", err, s.calls)
	}
}

func TestAClockThatIsWrongIsSaid(t *testing.T) {
	t.Parallel()
	s := &service{now: func() time.Time { return time.Now().Add(-45 * time.Minute) }}
	b := cloud.New(cloud.Options{Assume: s.assume})
	if _, err := b.Get(t.Context(), cloud.Role{ARN: "arn:a"}, "worker"); !errors.Is(err, cloud.ErrShortLived) || len(b.Ledger()) != 0 {
		t.Errorf("credentials that end in 15 minutes: %v, %d grants", err, len(b.Ledger()))
	}
}

func TestRevocationReachesWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{now: time.Now, takes: 10 * time.Second}
		b := cloud.New(cloud.Options{Assume: s.assume})
		var got cloud.Credentials
		var work sync.WaitGroup
		work.Go(func() { got, _ = b.Get(t.Context(), cloud.Role{ARN: "arn:a"}, "worker") })
		<-time.After(5 * time.Second)
		moment := time.Now()
		_, policy := b.Revoke("arn:a")
		work.Wait()
		if !got.Issued.After(moment) {
			t.Errorf("%s was issued at %s, revoked at %s", got, got.Issued, moment)
		}
		if !strings.Contains(policy, "aws:TokenIssueTime") || !strings.Contains(policy, "Deny") {
			t.Errorf("the policy is %s", policy)
		}
		held, _ := b.Revoke("arn:a")
		if len(held) != 1 || held[0].Holder != "worker" {
			t.Errorf("held are %+v", held)
		}
	})
}

func TestCredentialsPrintNoSecret(t *testing.T) {
	t.Parallel()
	c := cloud.Credentials{AccessKeyID: "AKIA1", SecretAccessKey: "hush", SessionToken: "token"}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s", c, c, c, c), c.LogValue().String()} {
		if strings.Contains(text, "hush") || strings.Contains(text, "token") {
			t.Errorf("%q shows a secret", text)
		}
	}
}

func TestAServiceThatNeverAnswersIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := cloud.New(cloud.Options{Assume: func(ctx context.Context, _ cloud.Request) (cloud.Credentials, error) {
			<-ctx.Done()
			return cloud.Credentials{}, ctx.Err()
		}})
		began := time.Now()
		if _, err := b.Get(t.Context(), cloud.Role{ARN: "arn:a"}, "worker"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}
