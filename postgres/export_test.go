package postgres

// Doubt makes s forget that its server has answered a moment ago.
func Doubt(s *Server) { s.breaker.doubt() }
