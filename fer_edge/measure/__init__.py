"""fer_edge.measure"""
