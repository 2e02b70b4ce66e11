"""fer_edge.backends"""
