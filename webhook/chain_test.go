package webhook

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var served = []string{"berth-webhook.berth-system.svc", "127.0.0.1"}

func step(t *testing.T, c chain, now time.Time) chain {
	t.Helper()
	after, _, err := c.next(served, now, Lifetimes{}.orDefaults())
	if err != nil {
		t.Fatal(err)
	}
	return after
}

// trusted fails unless a client that knows bundle accepts what c serves.
func trusted(t *testing.T, bundle []byte, c chain, now time.Time) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	for _, name := range served {
		if _, err := c.leaf.cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, DNSName: name}); err != nil {
			t.Fatalf("at %s: %v", now, err)
		}
	}
}

// Over three years every certificate is accepted by those who know the
// authorities of now, by those who know the ones of six hours ago, and by those
// whose clock differs by most of an hour.
func TestAChainIsAlwaysTrusted(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := step(t, chain{}, now)
	authorities, leaves, most := map[string]bool{}, map[string]bool{}, 0
	for range 3 * 365 * 4 {
		before := c.bundle()
		now = now.Add(6 * time.Hour)
		c = step(t, c, now)
		trusted(t, before, c, now)
		for _, clock := range []time.Duration{-50 * time.Minute, 0, 50 * time.Minute} {
			trusted(t, c.bundle(), c, now.Add(clock))
		}
		authorities[c.authorities[0].cert.SerialNumber.String()] = true
		leaves[c.leaf.cert.SerialNumber.String()] = true
		most = max(most, len(c.authorities))
		data, err := c.data()
		if err != nil {
			t.Fatal(err)
		}
		if c, err = parseChain(data); err != nil {
			t.Fatal(err)
		}
	}
	if len(authorities) < 4 || len(authorities) > 6 || len(leaves) < 18 || len(leaves) > 22 || most != 2 {
		t.Errorf("%d authorities, %d leaves, at most %d trusted at once", len(authorities), len(leaves), most)
	}
}

func TestNextRenews(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	born := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	fresh := step(t, chain{}, born)
	stranger := step(t, chain{}, born)
	for name, tc := range map[string]struct {
		have            chain
		names           []string
		after           time.Duration
		authority, leaf bool // renewed
	}{
		"nothing that is young":               {fresh, served, 60 * day, false, false},
		"a leaf at two thirds of its life":    {fresh, served, 60*day + time.Second, false, true},
		"a leaf that lacks a name":            {fresh, []string{"other.svc"}, 0, false, true},
		"a leaf of an authority not trusted":  {chain{fresh.authorities, stranger.leaf}, served, 0, false, true},
		"an authority at two thirds":          {fresh, served, 244 * day, true, true},
		"an authority whose key is lost":      {chain{[]pair{{cert: fresh.authorities[0].cert}}, fresh.leaf}, served, 0, true, false},
		"an authority and leaf that are over": {fresh, served, 400 * day, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := born.Add(tc.after)
			got, changed, err := tc.have.next(tc.names, now, Lifetimes{}.orDefaults())
			if err != nil {
				t.Fatal(err)
			}
			authority := !got.authorities[0].cert.Equal(tc.have.authorities[0].cert)
			leaf := !got.leaf.cert.Equal(tc.have.leaf.cert)
			if diff := cmp.Diff([]bool{tc.authority, tc.leaf, tc.authority || tc.leaf}, []bool{authority, leaf, changed}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseChainRefusesWhatIsSpoilt(t *testing.T) {
	t.Parallel()
	one, two := step(t, chain{}, time.Now()), step(t, chain{}, time.Now())
	for name, spoil := range map[string]func(data, other map[string][]byte){
		"nothing at all":             func(data, _ map[string][]byte) { clear(data) },
		"a certificate cut short":    func(data, _ map[string][]byte) { data["tls.crt"] = data["tls.crt"][:99] },
		"a key of another":           func(data, other map[string][]byte) { data["tls.key"] = other["tls.key"] },
		"an authority's other key":   func(data, other map[string][]byte) { data["ca.key"] = other["ca.key"] },
		"no authority":               func(data, _ map[string][]byte) { data["ca.crt"] = nil },
		"an authority that is a key": func(data, _ map[string][]byte) { data["ca.crt"] = data["ca.key"] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := one.data()
			if err != nil {
				t.Fatal(err)
			}
			other, err := two.data()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parseChain(data); err != nil {
				t.Fatal(err)
			}
			spoil(data, other)
			if _, err := parseChain(data); err == nil {
				t.Error("accepted")
			}
		})
	}
}
