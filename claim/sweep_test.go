package claim_test

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
	"github.com/berth-dev/berth/postgres"
)

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestSweeperDropsNothingItIsNotSureOf(t *testing.T) {
	t.Parallel()
	var deaf atomic.Bool
	server := testkit.NewPostgres(t, 15)
	w := world.New(t, world.Options{
		Server: server,
		Class:  func(s *v1alpha1.DatabaseClassSpec) { s.Deletion.UndoWindow = &metav1.Duration{Duration: time.Second} },
		Transport: func(next http.RoundTripper) http.RoundTripper {
			return transport(func(r *http.Request) (*http.Response, error) {
				if deaf.Load() && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/databaseclaims/") {
					return nil, errors.New("the API server is away")
				}
				return next.RoundTrip(r)
			})
		},
	})
	used, deleted := w.Claim("used"), w.Claim("deleted")
	for _, c := range []*v1alpha1.DatabaseClaim{used, deleted} {
		w.Make(c)
		w.Ready(c)
	}
	w.Gone(deleted)
	past := time.Now().Add(-time.Hour)
	mark := func(database string, m postgres.Marker) {
		m.Released, m.DropAfter = &past, &past
		server.Exec(t, "", "COMMENT ON DATABASE "+database+" IS '"+m.Comment()+"'")
	}
	mine := w.Sweeper.Worker.Cluster
	// As if somebody had restored a server from before the claim was made again.
	mark(`"`+used.Status.Database+`"`, postgres.Marker{Cluster: mine, Claim: w.Namespace + "/used", Kind: postgres.DatabaseClaim})
	server.Exec(t, "", "CREATE DATABASE elsewhere")
	mark("elsewhere", postgres.Marker{Cluster: "another cluster", Claim: w.Namespace + "/no-such-claim", Kind: postgres.DatabaseClaim})
	server.Exec(t, "", "CREATE DATABASE unmarked")
	server.Exec(t, "", "CREATE DATABASE remarked")
	server.Exec(t, "", "COMMENT ON DATABASE remarked IS 'berth: do not touch'")
	databases := func() string {
		return strings.Join(server.Query(t, "", "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY 1"), " ")
	}
	all := "elsewhere remarked " + deleted.Status.Database + " " + used.Status.Database + " unmarked"
	overdue := server.Query(t, "", "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '"+deleted.Status.Database+"'")[0]
	m, _ := postgres.ParseMarker(overdue)
	w.Until("the window to end", func() (bool, string) { return time.Now().After(*m.DropAfter), overdue })

	deaf.Store(true)
	w.Sweeper.Sweep(t.Context())
	if got := databases(); got != all {
		t.Errorf("a sweep without the API server leaves %s, want %s", got, all)
	}
	deaf.Store(false)
	w.Sweeper.Sweep(t.Context())
	if got, want := databases(), strings.Replace(all, deleted.Status.Database+" ", "", 1); got != want {
		t.Errorf("a sweep leaves %s, want %s", got, want)
	}
	if _, err := w.As(w.Secret("used"), "SELECT 1"); err != nil {
		t.Errorf("the claim that is used: %v", err)
	}
}

func TestSweeperTakesWhatAHalfMadeClaimLeft(t *testing.T) {
	t.Parallel()
	server := testkit.NewPostgres(t, 15)
	w := world.New(t, world.Options{Server: server})
	past := time.Now().Add(-time.Hour)
	m := postgres.Marker{Cluster: w.Sweeper.Worker.Cluster, Claim: w.Namespace + "/half", Kind: postgres.DatabaseClaim, Released: &past, DropAfter: &past}
	server.Exec(t, "", "CREATE ROLE half NOLOGIN")
	server.Exec(t, "", "COMMENT ON ROLE half IS '"+m.Comment()+"'")
	w.Ready(w.Class)
	w.Sweeper.Sweep(t.Context())
	if got := server.Query(t, "", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'half%'"); len(got) != 0 {
		t.Errorf("the role of a database that was never made stays: %v", got)
	}
}
