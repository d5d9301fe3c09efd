package dbproxy_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/berth-dev/berth/internal/testkit"
)

// What the cluster may read stands apart from what is for the pod alone.
func TestMetricsHaveAnAddressOfTheirOwn(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	for url, want := range map[string]int{
		fmt.Sprintf("http://127.0.0.1:%d/metrics", a.metrics):    http.StatusOK,
		fmt.Sprintf("http://127.0.0.1:%d/healthz", a.metrics):    http.StatusNotFound,
		fmt.Sprintf("http://127.0.0.1:%d/credential", a.metrics): http.StatusNotFound,
		fmt.Sprintf("http://127.0.0.1:%d/metrics", a.health):     http.StatusNotFound,
		fmt.Sprintf("http://127.0.0.1:%d/healthz", a.health):     http.StatusOK,
	} {
		response, err := http.Get(url)
		must(t, err)
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s answers %d, want %d", url, response.StatusCode, want)
		}
	}
	if a.metric("berth_dbproxy_login_timestamp_seconds") == 0 {
		t.Error("it does not say since when the login is used")
	}
	conn := a.connect(t)
	one(t, conn, "SELECT 'here'")
	eventually(t, "the client is counted", func() bool { return a.metric("berth_dbproxy_clients") == 1 })
}

func TestServesWithoutMetricsWhenTheirPortIsTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t, "--metrics-address", taken.Addr().String())
	if got := a.ask(t, "SELECT current_user::text"); got != c.owner {
		t.Errorf("current_user = %s", got)
	}
	if !strings.Contains(a.log.String(), "going on without metrics") {
		t.Error("the log does not say it")
	}
}
