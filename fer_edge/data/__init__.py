"""fer_edge.data"""
