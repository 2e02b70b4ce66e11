"""fer_edge.report"""
